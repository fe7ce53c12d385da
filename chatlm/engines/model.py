"""The protocols of a loaded model and its KV caches, which every decoder implements."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from chatlm.errors import ModelError
from chatlm.types.sampling import Sampling

log = logging.getLogger(__name__)


class SequenceCache(Protocol):
    """The KV cache of one token sequence."""

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Add a block of a prompt; return the logits after its last token: (vocab_size,)."""
        ...

    def decode(self, ids: Sequence[int]) -> Tensor:
        """Add generated tokens, at most `max_step_tokens`.

        Returns:
            The logits after each: (tokens, vocab_size).
        """
        ...

    def truncate(self, length: int) -> int:
        """Drop all tokens after the first `length`; more where a window or a state is gone.

        The newest tokens, up to `max_draft_tokens`, can always be dropped exactly.

        Returns:
            The tokens that are kept, at most `length`, possibly none.
        """
        ...


@runtime_checkable
class PausingCache(Protocol):
    """A `SequenceCache` that can pause within a block, so that others need not wait for its end."""

    def prefill_in_parts(self, ids: Sequence[int]) -> Generator[None, None, Tensor]:
        """Do the same as `SequenceCache.prefill`; yield after each part.

        Other caches may be used between the parts. If not all of them are computed, this one
        cannot be used any more.
        """
        ...


@runtime_checkable
class GrowingCache(Protocol):
    """A `SequenceCache` whose memory grows, at the cost of a copy."""

    def reserve(self, tokens: int) -> None:
        """Make room for so many tokens in all, such as a prompt that is read in blocks."""
        ...


@runtime_checkable
class SavableCache(SequenceCache, Protocol):
    """A KV cache that can be kept on disk, see `chatlm.engines.saved_caches`."""

    @property
    def has_state(self) -> bool:
        """Whether `read_state` has more than `read_block`."""
        ...

    def read_block(self, start: int, end: int) -> Mapping[str, Tensor]:
        """Return what a block of tokens left, which later ones never change.

        Args:
            start: of the block.
            end: of the block; both are ends of prefilled blocks, or 0.
        """
        ...

    def read_state(self, end: int) -> Mapping[str, Tensor] | None:
        """Return what else there was at the end of a block; None if it is not known any longer."""
        ...

    def restore(
        self,
        ids: Sequence[int],
        ends: Sequence[int],
        blocks: Sequence[Mapping[str, Tensor]],
        state: Mapping[str, Tensor],
    ) -> None:
        """Fill an empty cache with what another one had.

        Args:
            ids: tokens of all blocks.
            ends: of the blocks.
            blocks: what `read_block` returned for each.
            state: what `read_state` returned at the end of the last one.
        """
        ...


@dataclass(frozen=True)
class BlockRules:
    """Which blocks a model's prompts may be read in without another result."""

    several: bool = True
    """Whether several blocks may follow each other; otherwise a prompt is read at once."""
    first_past: int | None = None
    """Length that the first block of a longer prompt must exceed, since the model encodes all
    positions otherwise from there on (longrope)."""
    sizes: tuple[int, int] | None = None
    """Tokens of large and of small blocks, the one a multiple of the other; None for those of the
    device."""


NO_IMAGES = "It cannot read images here: "
"""Begin of the note of a model that could, if something were not in the way."""

ANY_BLOCKS = BlockRules()
"""Of most models."""


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a loaded model."""

    device: str
    """cpu, cuda:0, …, or several joined by +."""
    weights: str
    """How its weights are held, as the screen shows it; see `describe_weights`."""
    context_length: int
    """Positions that the model supports."""
    eos_token_ids: tuple[int, ...]
    """Ids of the tokens that end a reply."""
    recommended_sampling: Sampling
    """Sampling that its generation config recommends."""
    notes: tuple[str, ...] = ()
    """Messages to the user about how it was loaded."""
    kv_cache: str = ""
    """How its KV caches are held where they round keys and values, such as `8-bit`."""
    block_rules: BlockRules = ANY_BLOCKS
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library name -> version, for libraries that run it besides torch."""


class LanguageModel(Protocol):
    """A loaded model, with an adapter or without."""

    @property
    def device_type(self) -> str:
        """Type of the torch device of the logits."""
        ...

    @property
    def max_step_tokens(self) -> int:
        """Limit of tokens per decode step, at least 1; above 1 where several cost little more than
        one."""
        ...

    @property
    def max_draft_tokens(self) -> int:
        """How many of the newest tokens a cache can drop exactly, which is the limit of a draft; 0
        where it cannot, or where a draft costs as much as it may save."""
        ...

    def new_cache(self) -> SequenceCache:
        """Return an empty KV cache."""
        ...


class ImageReader(Protocol):
    """How a model reads images."""

    @property
    def placeholder(self) -> str:
        """The text of the token that a chat template writes for an image."""
        ...

    @property
    def feature_id(self) -> int:
        """The id of the tokens in whose place the model reads an image."""
        ...

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The template of chats with images; None for the tokenizer's."""
        ...

    def expand(self, width: int, height: int) -> str:
        """Return the text of all tokens that replace the placeholder of an image.

        Args:
            width: in pixels.
            height: in pixels.
        """
        ...

    def available(
        self, hashes: Iterable[str], images: Mapping[str, bytes]
    ) -> AbstractContextManager[None]:
        """Let images be read within the context.

        Its caches then take the ids of `chatlm.engines.image_ids` in place of `feature_id`.

        Args:
            hashes: SHA-256 of the images, in hex.
            images: their bytes by hash.
        """
        ...

    def clear(self) -> None:
        """Free the memory of images that were read."""
        ...


@runtime_checkable
class ImageModel(Protocol):
    """A model that may read images."""

    @property
    def images(self) -> ImageReader | None:
        """How it reads them; None if it cannot."""
        ...


class AdaptedModel(LanguageModel, Protocol):
    """A model with an adapter."""

    def close(self) -> None:
        """Free the adapter's memory; its caches cannot be used afterwards."""
        ...


class Model(LanguageModel, Protocol):
    """A loaded model."""

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        ...

    def decode(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> Tensor:
        """Add tokens to several caches in one step, with the same results as one at a time.

        Args:
            caches: distinct caches of this model, with adapters or without.
            ids: new tokens of each cache; at most `max_step_tokens` in total.

        Returns:
            The logits after each token: (tokens, vocab_size).
        """
        ...

    def load_adapter(self, folder: Path) -> AdaptedModel:
        """Return the model with an adapter, without copying its weights.

        Args:
            folder: of the adapter, in peft's format.

        Raises:
            Unsupported: this model cannot run such an adapter.
            ValueError: it is damaged, or does not fit the model.
        """
        ...


class Unsupported(Exception):
    """A decoder cannot run a model or an adapter; the message says why."""


_BITS = {"bfloat16": 16, "bf16": 16, "float16": 16, "f16": 16, "float32": 32, "f32": 32}


def describe_weights(formats: Iterable[str], engine: str = "") -> str:
    """Return the bits of a model's weights in words, such as `4-bit and 6-bit, torch`.

    Args:
        formats: of its matrices, by their names in torch, ggml or the setting `weights`; the
            digit in a name that has one, such as int8 or Q4_K, is its number of bits.
        engine: what runs the model where that is not the usual one.
    """
    bits = {_BITS.get(name.lower()) or int(re.sub(r"\D*(\d).*", r"\1", name)) for name in formats}
    return " and ".join(f"{each}-bit" for each in sorted(bits)) + (engine and f", {engine}")


def parse_eos_token_ids(value: Any) -> tuple[int, ...]:
    """Return the ids of an `eos_token_id`, which is one, several or none.

    Raises:
        ModelError: it is something else.
    """
    ids = tuple(value if isinstance(value, list) else [value] if value is not None else [])
    if not all(type(each) is int for each in ids):
        raise ModelError(
            "The eos_token_id in generation_config.json or config.json must be one or more "
            f"token numbers, not {value!r:.60}.",
            "Copy or download the model again.",
        )
    return ids
