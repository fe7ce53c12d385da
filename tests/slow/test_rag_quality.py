"""Retrieval quality that must be reached on two collections with one setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatlm_rag import evaluation
from chatlm_rag.documents.files import Source
from chatlm_rag.evaluation import read_judgements, read_questions
from chatlm_rag.index import builder
from chatlm_rag.index.folder import find_index
from chatlm_rag.retrieval.search import Index
from tests import models

pytestmark = pytest.mark.slow


class Silent:
    cancelled = False

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        pass


@pytest.mark.parametrize(("name", "least"), [("cranfield", 0.41), ("xquad_en", 0.975)])
def test_fused_ranking(home: Path, shared_data: Path, name: str, least: float) -> None:
    models.lend(home, models.embedder_model())
    folder = shared_data / "retrieval" / name
    builder.build(name, (Source(str(folder / "corpus.jsonl")),), Silent())
    card = evaluation.evaluate(
        Index.open(find_index(name)),
        read_questions(folder / "queries.jsonl"),
        read_judgements(folder / "qrels.tsv"),
    )
    assert card.metrics["fused"]["ndcg@10"].mean >= least
    assert all(gain.low > 0 for gain in card.fused_gains.values())
