"""Reranking, with a real cross-encoder in form, whose weights say nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatlm import ModelLocation
from chatlm_rag.retrieval.search import Reranker
from chatlm_serve.errors import ApiError
from chatlm_serve.protocols import rerank
from chatlm_serve.protocols.rerank import MAX_DOCUMENTS, parse_rerank_request
from tests.plugins.serve import Echo, send, serving
from tests.plugins.test_rag_search_words import cross_encoder

__all__ = ["cross_encoder"]

DOCUMENTS = ["a cat", "tax law", "my kitten", "b"]


@pytest.fixture
def address(cross_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    def find(name: str) -> ModelLocation:
        return ModelLocation(name, cross_encoder, "chat" if name == "talker" else "reranker")

    monkeypatch.setattr(rerank, "find_model", find)
    with serving(Echo()) as address:
        yield address


def ask(address: str, path: str = "/v1/rerank", **fields: Any) -> Any:
    body = {"model": "tiny", "query": "which cat", "documents": DOCUMENTS} | fields
    headers = {"Content-Type": "application/json"}
    return send(address, path, json.dumps(body).encode(), method="POST", headers=headers)


def test_documents_are_ordered_by_the_cross_encoders_scores(
    address: str, cross_encoder: Path
) -> None:
    logits = Reranker(cross_encoder).scores("which cat", DOCUMENTS)
    answer = ask(address).json
    results = answer["results"]
    assert [each["index"] for each in results] == list(np.argsort(-logits))
    scores = [each["relevance_score"] for each in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert results[0]["document"]["text"] == DOCUMENTS[results[0]["index"]]
    assert answer["usage"]["total_tokens"] > 20
    objects = [{"text": text} for text in DOCUMENTS]
    short = ask(address, "/rerank", documents=objects, top_n=2, return_documents=False).json
    assert short["results"] == [
        {"index": each["index"], "relevance_score": each["relevance_score"]} for each in results[:2]
    ]
    cohere = ask(address, "/v2/rerank", top_n=2).json
    assert cohere["results"] == short["results"]
    assert cohere["meta"]["api_version"] == {"version": "2"}


@pytest.mark.parametrize("name", ["talker", "../etc", "/etc", "hf.co/x/y", ""])
def test_what_is_no_installed_reranker_is_not_found(address: str, name: str) -> None:
    answer = ask(address, model=name)
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")


@pytest.mark.usefixtures("home")
def test_without_a_reranker_the_way_to_one_is_named() -> None:
    with serving(Echo()) as address:
        answer = ask(address, model="all-minilm-l6-v2")
    assert answer.status == 404
    assert "chatlm pull ms-marco-minilm-l6-v2" in answer.json["error"]["message"]


def test_a_query_or_document_that_is_far_too_long_is_refused_before_it_is_read(
    address: str,
) -> None:
    for fields, param in (
        ({"documents": ["a", "x" * 500_000]}, "documents[1]"),
        ({"query": "x" * 500_000}, "query"),
        ({"query": "cat " * 1000}, "query"),
    ):
        answer = ask(address, **fields)
        assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_no_document_is_cut(address: str) -> None:
    answer = ask(address, documents=["a", "cat " * 1000])
    assert (answer.status, answer.json["error"]["param"]) == (400, "documents[1]")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": " "}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "x"}, "documents"),
        ({"documents": ["x"] * (MAX_DOCUMENTS + 1)}, "documents"),
        ({"documents": ["x", ""]}, "documents[1]"),
        ({"documents": [{"title": "x"}]}, "documents[0]"),
        ({"top_n": 0}, "top_n"),
        ({"model": None}, "model"),
        ({"max_chunks_per_doc": 1}, "max_chunks_per_doc"),
    ],
)
def test_what_cannot_be_served_is_named(fields: dict[str, Any], param: str) -> None:
    body = {"model": "m", "query": "q", "documents": ["d"]} | fields
    with pytest.raises(ApiError) as caught:
        parse_rerank_request(body, returns=True)
    assert (caught.value.status, caught.value.param) == (400, param)
