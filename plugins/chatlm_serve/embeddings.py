"""Texts as vectors, by the embedder that chatlm's indices are made with too."""

from __future__ import annotations

import base64
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatlm import ModelError, find_model, one_line
from chatlm_serve.errors import ApiError, field_error

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EMBEDDING_MODEL = "all-minilm-l6-v2"
MAX_TEXTS = 256
BATCH_SIZE = 16

KNOWN_FIELDS = {"model", "input", "encoding_format", "user"}


@dataclass(frozen=True)
class EmbeddingRequest:
    """What a client wants."""

    texts: tuple[str, ...]
    as_base64: bool
    """Whether vectors are sent as little-endian float32, not as JSON's numbers."""


@dataclass(frozen=True)
class EmbeddingBatch:
    """What comes of it."""

    vectors: np.ndarray[Any, np.dtype[np.float32]]
    token_count: int


def parse_embedding_request(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Check a body.

    Raises:
        ApiError: a field is missing, wrong or not supported; it is named.
    """
    said = {name: value for name, value in body.items() if value is not None}
    for name in said.keys() - KNOWN_FIELDS:
        raise field_error(one_line(name, 60), "is not supported here.", "unsupported_parameter")
    if said.get("model") != EMBEDDING_MODEL:
        raise ApiError(
            404,
            f"The model {one_line(str(said.get('model')), 80)!r} does not exist, or makes no "
            f"embeddings. The one that does is {EMBEDDING_MODEL}.",
            param="model",
            code="model_not_found",
        )
    coding = said.get("encoding_format", "float")
    if coding not in ("float", "base64"):
        raise field_error("encoding_format", "must be float or base64.")
    given = said.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise field_error("input", "must be a text, or a list of texts; none may be empty.")
    if not 0 < len(texts) <= MAX_TEXTS:
        raise field_error("input", f"must be 1 to {MAX_TEXTS} texts, not {len(texts):,}.")
    return EmbeddingRequest(tuple(texts), coding == "base64")


def is_installed() -> bool:
    """Whether the embedder is on this machine."""
    try:
        find_model(EMBEDDING_MODEL)
    except ModelError:
        return False
    return True


class Embedder:
    """The embedder, loaded when it is first used; for one thread."""

    def __init__(self) -> None:
        self._model: SentenceTransformer | None = None

    def embed(self, texts: Sequence[str]) -> Generator[EmbeddingBatch, None, None]:
        """The vectors of some texts after the others; closing it stops.

        Raises:
            ApiError: the embedder is not here, or a text is longer than it reads.
        """
        model = self._load_once()
        most = model.max_seq_length or sys.maxsize
        read = model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        for at, tokens in enumerate(read):
            if len(tokens) > most:
                raise field_error(
                    f"input[{at}]",
                    f"takes {len(tokens):,} tokens; {EMBEDDING_MODEL} reads {most}.",
                    "context_length_exceeded",
                )
        for start in range(0, len(texts), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            vectors = model.encode(list(texts[batch]), show_progress_bar=False)
            yield EmbeddingBatch(np.asarray(vectors, np.float32), sum(map(len, read[batch])))

    def _load_once(self) -> SentenceTransformer:
        if self._model is None:
            try:
                folder = find_model(EMBEDDING_MODEL).folder
            except ModelError as error:
                raise ApiError(404, str(error), param="model", code="model_not_found") from error
            self._model = _load(folder)
        return self._model


def embedding_response(
    batches: Sequence[EmbeddingBatch], request: EmbeddingRequest
) -> dict[str, Any]:
    """What is sent."""
    vectors = [vector for part in batches for vector in part.vectors]
    tokens = sum(part.token_count for part in batches)
    return {
        "object": "list",
        "model": EMBEDDING_MODEL,
        "data": [
            {
                "object": "embedding",
                "index": at,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if request.as_base64
                else vector.tolist(),
            }
            for at, vector in enumerate(vectors)
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
