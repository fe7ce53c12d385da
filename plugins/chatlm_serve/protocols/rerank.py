"""Reranking as Jina, Cohere and vLLM have it: `POST /v1/rerank`, `/rerank` and `/v2/rerank`.

A cross-encoder reads the query with each document. Without one, a request is refused: a distance of
embeddings is another score.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatlm import ModelError, UsageError, find_model, one_line
from chatlm_serve.errors import ApiError, field_error
from chatlm_serve.fields import get_typed, refuse_unknown, without_nulls
from chatlm_serve.http_guard import read_json_body
from chatlm_serve.protocols.openai_embeddings import check_length
from chatlm_serve.replying import collect, while_connected
from chatlm_serve.work_queue import WorkQueue

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

CATALOGUE_RERANKERS = ("ms-marco-minilm-l6-v2", "bge-reranker-v2-m3")
"""Those of the catalogue, the small one first."""

MAX_DOCUMENTS = 1000
BATCH_SIZE = 16

KNOWN_FIELDS = ("model", "query", "documents", "top_n", "return_documents", "user")


@dataclass(frozen=True)
class RerankRequest:
    """A parsed request."""

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int
    """How many results are returned, the best first."""
    return_documents: bool


@dataclass(frozen=True)
class ScoredBatch:
    """Scores of some of the documents, in their order."""

    scores: tuple[float, ...]
    """From 0 to 1."""
    tokens: int
    """How many tokens were read, those of the query with each document."""


def routes(queue: WorkQueue) -> list[Route]:
    """Return the endpoints.

    Args:
        queue: runs the models.
    """
    reranker = Reranker()
    jina = partial(_rerank, reranker, queue, False)
    cohere = partial(_rerank, reranker, queue, True)
    return [
        Route("/v1/rerank", jina, methods=["POST"]),
        Route("/rerank", jina, methods=["POST"]),
        Route("/v2/rerank", cohere, methods=["POST"]),
    ]


async def _rerank(
    reranker: Reranker, queue: WorkQueue, as_cohere: bool, request: Request
) -> Response:
    parsed = parse_rerank_request(await read_json_body(request), returns=not as_cohere)
    batches = queue.stream(partial(reranker.score, parsed))
    scored = await while_connected(request, collect(batches))
    return JSONResponse(rerank_response(scored, parsed, as_cohere=as_cohere))


def parse_rerank_request(body: Mapping[str, Any], *, returns: bool) -> RerankRequest:
    """Parse and validate a request body.

    Args:
        body: the decoded JSON; null fields count as missing.
        returns: whether documents are returned by default.

    Raises:
        ApiError: a field, which is named, is missing, invalid or unsupported.
    """
    fields = without_nulls(body, "body")
    refuse_unknown(fields, KNOWN_FIELDS)
    query = get_typed(fields, "query", str)
    if not query.strip():
        raise field_error("query", "is empty.")
    values = get_typed(fields, "documents", list)
    if not 0 < len(values) <= MAX_DOCUMENTS:
        raise field_error("documents", f"must be 1 to {MAX_DOCUMENTS:,}, not {len(values):,}.")
    documents = []
    for index, value in enumerate(values):
        text = value.get("text") if isinstance(value, dict) and len(value) == 1 else value
        if not isinstance(text, str) or not text:
            raise field_error(
                f"documents[{index}]", "must be a string, or an object with a text, not empty."
            )
        documents.append(text)
    top_n = get_typed(fields, "top_n", int, len(documents))
    if top_n < 1:
        raise field_error("top_n", "must be a positive integer.")
    return RerankRequest(
        get_typed(fields, "model", str),
        query,
        tuple(documents),
        top_n,
        get_typed(fields, "return_documents", bool, returns),
    )


def installed_rerankers() -> list[str]:
    """Return the names of the catalogue's rerankers that are installed."""
    return [name for name in CATALOGUE_RERANKERS if _find(name) is not None]


def _find(name: str) -> Path | None:
    """Return the folder of an installed reranker; None if there is none of this name."""
    if not re.fullmatch(r"\w[\w.-]*", name):  # a client names models, not places on the disk
        return None
    try:
        location = find_model(name)
    except (ModelError, UsageError):
        return None
    is_installed = location.name == name.lower() or location.name == name
    return location.folder if is_installed and location.kind == "reranker" else None


class Reranker:
    """A cross-encoder, loaded on first use; another one takes its place. Not thread-safe."""

    def __init__(self) -> None:
        self._name = ""
        self._model: CrossEncoder | None = None

    def score(self, request: RerankRequest) -> Generator[ScoredBatch, None, None]:
        """Score the documents in batches; closing the generator stops after the current batch.

        Raises:
            ApiError: there is no such reranker, or a document is too long for it.
        """
        model = self._load_once(request.model)
        import torch

        limit = int(model.tokenizer.model_max_length)  # huge where it is not known
        pairs = [(request.query, document) for document in request.documents]
        check_length(request.query, limit, "query", request.model)
        for index, document in enumerate(request.documents):
            check_length(document, limit, f"documents[{index}]", request.model)
        alone = len(model.tokenizer(request.query, verbose=False)["input_ids"])
        if alone > limit:  # before it is read once more with each document
            raise field_error(
                "query",
                f"has {alone:,} tokens; {request.model} reads at most {limit}, with a document.",
                "context_length_exceeded",
            )
        queries, documents = map(list, zip(*pairs, strict=True))
        encoded = model.tokenizer(queries, documents, truncation=False, verbose=False)
        counts = [len(ids) for ids in encoded["input_ids"]]
        for index, count in enumerate(counts):
            if count > limit:
                raise field_error(
                    f"documents[{index}]",
                    f"has {count:,} tokens with the query; {request.model} reads at most {limit}.",
                    "context_length_exceeded",
                )
        for start in range(0, len(pairs), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            scores = model.predict(
                pairs[batch], show_progress_bar=False, activation_fn=torch.nn.Sigmoid()
            )
            yield ScoredBatch(tuple(map(float, scores)), sum(counts[batch]))

    def _load_once(self, name: str) -> CrossEncoder:
        folder = _find(name)
        if folder is None:
            known = installed_rerankers()
            raise ApiError(
                404,
                f"The model {one_line(name, 80)!r} is not installed, or is no reranker. "
                + (
                    f"Use {known[0]}."
                    if known
                    else f"Install one: chatlm pull {CATALOGUE_RERANKERS[0]}"
                ),
                param="model",
                code="model_not_found",
            )
        if self._model is None or self._name != name:
            self._model = None  # before the next is loaded, so that memory holds one
            self._model, self._name = _load(folder), name
        return self._model


def rerank_response(
    batches: Sequence[ScoredBatch], request: RerankRequest, *, as_cohere: bool = False
) -> dict[str, Any]:
    """Return the response body.

    Args:
        batches: the scores of all documents.
        request: the request.
        as_cohere: whether it has Cohere's `meta` instead of Jina's `usage`.
    """
    scores = [score for batch in batches for score in batch.scores]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    results = [
        {"index": index, "relevance_score": scores[index]}
        | ({"document": {"text": request.documents[index]}} if request.return_documents else {})
        for index in order[: request.top_n]
    ]
    common = {"id": f"rerank-{uuid.uuid4().hex}", "results": results}
    tokens = sum(batch.tokens for batch in batches)
    if as_cohere:
        meta = {"api_version": {"version": "2"}, "tokens": {"input_tokens": tokens}}
        return common | {"meta": meta}
    return common | {
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _load(folder: Path) -> CrossEncoder:
    from sentence_transformers import CrossEncoder
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: CrossEncoder = CrossEncoder(
        str(folder),
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )
    return model
