"""OpenAI's embeddings: `POST /v1/embeddings`."""

from __future__ import annotations

import base64
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatlm import ModelError, find_model, one_line
from chatlm_serve.errors import ApiError, field_error
from chatlm_serve.fields import refuse_unknown, without_nulls
from chatlm_serve.http_guard import read_json_body
from chatlm_serve.replying import collect, while_connected
from chatlm_serve.work_queue import WorkQueue

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EMBEDDING_MODEL = "all-minilm-l6-v2"
"""The model that also embeds chatlm's indices."""

MAX_TEXTS = 256
BATCH_SIZE = 16

MAX_WORD = 100
"""Characters of the longest word that a tokenizer of these models divides; a text has no more for
each of its tokens."""

KNOWN_FIELDS = {"model", "input", "encoding_format", "user"}


@dataclass(frozen=True)
class EmbeddingRequest:
    """A parsed embedding request."""

    texts: tuple[str | tuple[int, ...], ...]
    """Texts, or token ids of the model's own tokenizer."""
    as_base64: bool
    """Whether vectors are sent as base64 of little-endian float32 instead of JSON numbers."""


@dataclass(frozen=True)
class EmbeddingBatch:
    """Vectors of some of a request's texts."""

    vectors: np.ndarray[Any, np.dtype[np.float32]]
    """Shape (texts, dimensions)."""
    token_count: int


def parse_embedding_request(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Parse and validate a request body.

    Raises:
        ApiError: a field, which is named, is missing, invalid or unsupported.
    """
    fields = without_nulls(body, "body")
    refuse_unknown(fields, KNOWN_FIELDS)
    if fields.get("model") != EMBEDDING_MODEL:
        raise ApiError(
            404,
            f"The model {one_line(str(fields.get('model')), 80)!r} does not exist or does not "
            f"support embeddings. Use {EMBEDDING_MODEL}.",
            param="model",
            code="model_not_found",
        )
    encoding = fields.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise field_error("encoding_format", "must be float or base64.")
    value = fields.get("input")
    is_one = isinstance(value, str) or _are_ids(value)
    texts = [value] if is_one else value
    if not isinstance(texts, list) or not all(
        (isinstance(text, str) and text) or _are_ids(text) for text in texts
    ):
        raise field_error(
            "input", "must be a string or a list of strings or of token ids, none of them empty."
        )
    if not 0 < len(texts) <= MAX_TEXTS:
        raise field_error("input", f"must be 1 to {MAX_TEXTS} texts, not {len(texts):,}.")
    return EmbeddingRequest(
        tuple(text if isinstance(text, str) else tuple(text) for text in texts),
        encoding == "base64",
    )


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)


def is_installed() -> bool:
    """Return whether the embedding model is installed."""
    try:
        find_model(EMBEDDING_MODEL)
    except ModelError:
        return False
    return True


class EmbeddingService:
    """The embedding model and its queue; call `stop` and then `close`.

    Args:
        max_waiting: maximum number of requests that wait.
    """

    def __init__(self, max_waiting: int) -> None:
        self.queue = WorkQueue(max_waiting)
        """For all that embeds texts."""
        self._embedder = Embedder()

    async def embed(self, texts: Sequence[str | tuple[int, ...]]) -> list[EmbeddingBatch]:
        """Embed texts when it is their turn.

        Raises:
            ApiError: as `Embedder.embed`.
            QueueFull, ShuttingDown: see `WorkQueue.stream`.
        """
        return await collect(self.queue.stream(partial(self._embedder.embed, texts)))

    def stop(self) -> None:
        """Cancel all requests; call it in the event loop's thread."""
        self.queue.stop()

    def close(self) -> None:
        """Wait until all computation has ended; call `stop` first."""
        self.queue.close()


def routes(service: EmbeddingService) -> list[Route]:
    """Return the endpoint."""
    return [Route("/v1/embeddings", partial(_create, service), methods=["POST"])]


async def _create(service: EmbeddingService, request: Request) -> Response:
    parsed = parse_embedding_request(await read_json_body(request))
    batches = await while_connected(request, service.embed(parsed.texts))
    return JSONResponse(embedding_response(batches, parsed))


class Embedder:
    """The embedding model, loaded on first use; not thread-safe."""

    def __init__(self) -> None:
        self._model: SentenceTransformer | None = None

    def embed(
        self, inputs: Sequence[str | tuple[int, ...]]
    ) -> Generator[EmbeddingBatch, None, None]:
        """Embed texts in batches; closing the generator stops after the current batch.

        Args:
            inputs: texts, or token ids of the model's own tokenizer.

        Raises:
            ApiError: the model is not installed, a text is too long for it, or ids are not those
                that its tokenizer gives a text.
        """
        model = self._load_once()
        limit = model.max_seq_length or sys.maxsize
        for index, each in enumerate(inputs):
            check_length(each, limit, f"input[{index}]", EMBEDDING_MODEL)
        texts = [
            each if isinstance(each, str) else _text_of(model.tokenizer, each, f"input[{index}]")
            for index, each in enumerate(inputs)
        ]
        input_ids = model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        for index, ids in enumerate(input_ids):
            if len(ids) > limit:
                raise field_error(
                    f"input[{index}]",
                    f"has {len(ids):,} tokens; {EMBEDDING_MODEL} reads at most {limit}.",
                    "context_length_exceeded",
                )
        for start in range(0, len(texts), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            vectors = model.encode(texts[batch], show_progress_bar=False)
            yield EmbeddingBatch(np.asarray(vectors, np.float32), sum(map(len, input_ids[batch])))

    def _load_once(self) -> SentenceTransformer:
        if self._model is None:
            try:
                folder = find_model(EMBEDDING_MODEL).folder
            except ModelError as error:
                raise ApiError(404, str(error), param="model", code="model_not_found") from error
            self._model = _load(folder)
        return self._model


def check_length(text: str | Sequence[int], limit: int, path: str, model: str) -> None:
    """Refuse a text that is far too long before it is divided into tokens.

    Args:
        text: the text, or token ids.
        limit: how many tokens the model reads.
        path: the text's name in an error.
        model: the model's name.

    Raises:
        ApiError: it is longer than any text of so many tokens.
    """
    is_text = isinstance(text, str)
    if len(text) > limit * (MAX_WORD if is_text else 1):
        raise field_error(
            path,
            f"has {len(text):,} {'characters' if is_text else 'tokens'}; {model} reads at most "
            f"{limit} tokens.",
            "context_length_exceeded",
        )


def _text_of(tokenizer: Any, ids: Sequence[int], path: str) -> str:
    """Return the text of token ids.

    Raises:
        ApiError: its ids are others, so these are another tokenizer's, as many clients send.
    """
    inner = [each for each in ids if each not in (tokenizer.cls_token_id, tokenizer.sep_token_id)]
    size = len(tokenizer)
    text = tokenizer.decode(inner) if all(0 <= each < size for each in inner) else ""
    if not text or tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] != inner:
        raise field_error(
            path,
            f"these are not the token ids of a text in {EMBEDDING_MODEL}'s own tokenizer; send "
            "the text (in LangChain: check_embedding_ctx_length=False).",
            "invalid_token_ids",
        )
    return str(text)


def embedding_response(
    batches: Sequence[EmbeddingBatch], request: EmbeddingRequest
) -> dict[str, Any]:
    """Return the response body in OpenAI's format."""
    vectors = [vector for batch in batches for vector in batch.vectors]
    tokens = sum(batch.token_count for batch in batches)
    return {
        "object": "list",
        "model": EMBEDDING_MODEL,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if request.as_base64
                else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _load(folder: Path) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    return SentenceTransformer(
        str(folder),
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )
