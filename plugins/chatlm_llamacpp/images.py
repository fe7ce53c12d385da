"""Images for a model of llama.cpp: its mtmd library encodes them with an mmproj file."""

from __future__ import annotations

import ctypes
import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlm import ImageSources, ImageUnit, Unsupported, UsageError, is_image_id
from chatlm_llamacpp.library import forwarder, load_mtmd
from chatlm_llamacpp.owned import Owned

MAX_EMBEDDING_BYTES = 256 * 2**20
"""Limit of the encoded images that are kept, so that one of an earlier turn is not read again."""

MAX_CHUNK_TOKENS = 512
"""Maximum tokens of an image that are computed at once, as all that see each other must be."""

_TEXT = 0
"""Type of a chunk of mtmd; other numbers are images and sounds."""


@dataclass(frozen=True)
class Placement:
    """How prompts of a family have images: the tokens of an image itself, between tiles and at the
    ends of rows, come from mtmd, but it does not know what the chat template writes."""

    placeholder: str
    """The token that the chat template writes for an image."""
    feature: str = ""
    """The token in whose place the model reads an image; empty if it is the placeholder."""
    around: str = ""
    """Text before and after the tokens of an image, which mtmd leaves out."""
    template_has_ends: bool = False
    """Whether the template itself writes the tokens before and after an image that mtmd adds."""


_QWEN = Placement("<|image_pad|>", template_has_ends=True)

PLACEMENTS: dict[str, Placement] = {
    "gemma3": Placement("<start_of_image>", "<image_soft_token>", around="\n\n"),
    "gemma4v": Placement("<|image|>"),
    "idefics3": Placement("<image>"),
    "lfm2": Placement("<image>"),
    "pixtral": Placement("[IMG]"),
    "qwen2vl_merger": _QWEN,
    "qwen2.5vl_merger": _QWEN,
    "qwen3vl_merger": _QWEN,
}
"""By the type of the projector in an mmproj file; those whose prompts are proven by tests."""


def open_images(
    api: Any, model: Owned, path: Path, projector: str, threads: int, *, use_gpu: bool
) -> LlamaImages:
    """Load an mmproj file.

    Args:
        api: see `load_library`.
        model: the language model.
        path: the file.
        projector: its type, as the file says.
        threads: that compute.
        use_gpu: whether a GPU computes.

    Raises:
        Unsupported: it cannot be used with this model; the message says why.
    """
    placement = PLACEMENTS.get(projector)
    if placement is None:
        raise Unsupported(
            f"{path.name} is of the type {projector or 'unknown'}, for which chatlm does not know "
            "what the chat template writes for an image; the model's safetensors run with "
            "transformers"
        )
    mtmd = load_mtmd()
    params = mtmd.mtmd_context_params_default()
    params.use_gpu = use_gpu
    params.print_timings = params.warmup = False
    params.n_threads = threads
    params.flash_attn_type = 0  # it would round keys and values to 16 bits
    forwarder.errors.clear()
    pointer = mtmd.mtmd_init_from_file(bytes(path), model.pointer, params)
    if not pointer:
        raise Unsupported(f"{path.name} does not fit the model: {forwarder.cause()}")
    context = Owned(pointer, mtmd.mtmd_free, model)
    if not mtmd.mtmd_support_vision(pointer):
        raise Unsupported(f"{path.name} does not read images")
    return LlamaImages(api, mtmd, model, context, placement)


@dataclass(frozen=True)
class ImagePiece:
    """A part of an image that is computed at once: its tokens, and what the model reads in their
    place."""

    tokens: int
    positions: int
    """By which the position of the next token is higher than that of the first; fewer than tokens
    where they have rows and columns."""
    chunk: Owned
    embeddings: NDArray[np.float32]
    """(tokens, width of the model)."""


class LlamaImages:
    """How a model of llama.cpp reads images; a `chatlm.ImageReader`.

    Args:
        api: see `load_library`.
        mtmd: llama.cpp's functions for images.
        model: the language model.
        context: of the mmproj file.
        placement: where prompts have images.

    Raises:
        Unsupported: the model's vocabulary lacks the tokens.
    """

    def __init__(
        self, api: Any, mtmd: Any, model: Owned, context: Owned, placement: Placement
    ) -> None:
        self._api = api
        self.mtmd = mtmd
        self._vocabulary = api.llama_model_get_vocab(model.pointer)
        self._width = int(api.llama_model_n_embd_inp(model.pointer))
        self.context = context
        self._placement = placement
        self.placeholder = placement.placeholder
        self._feature = placement.feature or placement.placeholder
        self.feature_id = self._token_id(self._feature)
        self._token_id(placement.placeholder)
        self.chat_template: str | None = None
        """The tokenizer's own."""
        self.expand = lru_cache(256)(self._expand)
        """`(width, height) -> text`: the text of all tokens that replace a placeholder; the size is
        in pixels."""
        self._sources = ImageSources()
        self.available = self._sources.available
        self._pieces: OrderedDict[str, list[ImagePiece]] = OrderedDict()
        self._lock = Lock()
        """Held while mtmd works: prompts are previewed in other threads."""

    def clear(self) -> None:
        """Free the memory of images that were read."""
        self._pieces.clear()

    def pieces(self, ids: Sequence[int], unit: ImageUnit) -> list[ImagePiece]:
        """Return the pieces of an image in a prompt, encoded.

        Args:
            ids: of a block of the prompt, see `chatlm.image_ids`.
            unit: the image in it.

        Raises:
            UsageError: its bytes are not here, or it cannot be read.
            RuntimeError: llama.cpp failed.
        """
        sha256 = self._sources.find(ids, unit)
        if sha256 not in self._pieces:
            self._pieces[sha256] = self._encode(self._sources.read(sha256))
            self._drop_oldest()
        self._pieces.move_to_end(sha256)
        pieces = self._pieces[sha256]
        tokens = sum(map(is_image_id, ids[unit.start : unit.stop]))
        if sum(piece.tokens for piece in pieces) != tokens:
            raise RuntimeError("an image has other tokens than its size tells")
        return pieces

    def _encode(self, content: bytes) -> list[ImagePiece]:
        import PIL.Image

        try:
            with PIL.Image.open(io.BytesIO(content)) as image:
                pixels = image.convert("RGB")
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise UsageError(
                f"An image cannot be read: {str(error).partition(chr(10))[0]}",
                hint="Attach it again as PNG or JPEG.",
            ) from error
        chunks = self._tokenize(pixels.width, pixels.height, pixels.tobytes())
        return [self._encode_chunk(chunk, chunks) for chunk in self._chunks(chunks) if chunk[1]]

    def _encode_chunk(self, chunk: tuple[Any, int], chunks: Owned) -> ImagePiece:
        pointer, tokens = chunk
        at_once = self.mtmd.mtmd_decode_use_non_causal(self.context.pointer, pointer)
        if at_once and tokens > MAX_CHUNK_TOKENS:
            raise UsageError(
                f"An image takes {tokens:,} tokens at once, more than {MAX_CHUNK_TOKENS}",
                hint="Attach a smaller image.",
            )
        with self._lock:
            status = self.mtmd.mtmd_encode_chunk(self.context.pointer, pointer)
            if status != 0:
                raise RuntimeError(f"mtmd_encode_chunk returned {status}: {forwarder.cause()}")
            values = self.mtmd.mtmd_get_output_embd(self.context.pointer)
            shape = (tokens, self._width)
            embeddings = np.ctypeslib.as_array(values, shape).astype(np.float32, copy=True)
        positions = int(self.mtmd.mtmd_input_chunk_get_n_pos(pointer))
        kept = Owned(pointer, _freed_with_its_list, chunks)
        return ImagePiece(tokens, positions, kept, embeddings)

    def _expand(self, width: int, height: int) -> str:
        """Replace a placeholder; it depends on the size of an image alone, not on its content."""
        chunks = self._tokenize(width, height, bytes(3 * width * height))
        texts = [
            self._feature * tokens if tokens else self._text_of(pointer)
            for pointer, tokens in self._chunks(chunks)
        ]
        if self._placement.template_has_ends:
            texts = texts[1:-1]
        return "".join([self._placement.around, *texts, self._placement.around])

    def _tokenize(self, width: int, height: int, rgb: bytes) -> Owned:
        """Return mtmd's chunks of an image and the text around it."""
        mtmd = self.mtmd
        data = (ctypes.c_uint8 * len(rgb)).from_buffer_copy(rgb)
        bitmap = Owned(mtmd.mtmd_bitmap_init(width, height, data), mtmd.mtmd_bitmap_free)
        chunks = Owned(mtmd.mtmd_input_chunks_init(), mtmd.mtmd_input_chunks_free, self.context)
        marker = mtmd.mtmd_default_marker()
        text = mtmd.mtmd_input_text()
        text.text, text.text_len, text.parse_special = marker, len(marker), True
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap.pointer)
        with self._lock:
            status = mtmd.mtmd_tokenize(
                self.context.pointer, chunks.pointer, ctypes.byref(text), bitmaps, 1
            )
        if status != 0:
            raise RuntimeError(f"mtmd_tokenize returned {status}: {forwarder.cause()}")
        return chunks

    def _chunks(self, chunks: Owned) -> Iterator[tuple[Any, int]]:
        """Yield each chunk with the tokens of its image, 0 for text."""
        for index in range(self.mtmd.mtmd_input_chunks_size(chunks.pointer)):
            chunk = self.mtmd.mtmd_input_chunks_get(chunks.pointer, index)
            if self.mtmd.mtmd_input_chunk_get_type(chunk) == _TEXT:
                yield chunk, 0
            else:
                yield chunk, int(self.mtmd.mtmd_input_chunk_get_n_tokens(chunk))

    def _text_of(self, chunk: Any) -> str:
        count = ctypes.c_size_t()
        ids = self.mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        buffer = ctypes.create_string_buffer(256)
        text = b""
        for index in range(count.value):
            if ids[index] < 0:
                raise RuntimeError("the vocabulary lacks a token that mtmd writes beside images")
            size = self._api.llama_token_to_piece(
                self._vocabulary, ids[index], buffer, len(buffer), 0, True
            )
            text += buffer.raw[: max(size, 0)]
        return text.decode("utf-8", "replace")

    def _token_id(self, text: str) -> int:
        found = (self._api.llama_token * 4)()
        encoded = text.encode()
        count = self._api.llama_tokenize(
            self._vocabulary, encoded, len(encoded), found, len(found), False, True
        )
        if count != 1:
            raise Unsupported(f"the model has no token {text}, which stands for an image")
        return int(found[0])

    def _drop_oldest(self) -> None:
        sizes = {
            sha256: sum(piece.embeddings.nbytes for piece in pieces)
            for sha256, pieces in self._pieces.items()
        }
        total = sum(sizes.values())
        for sha256 in list(self._pieces)[:-1]:
            if total <= MAX_EMBEDDING_BYTES:
                return
            total -= sizes[sha256]
            del self._pieces[sha256]


def _freed_with_its_list(_: Any) -> None:
    """Free nothing: chunks belong to their list."""
