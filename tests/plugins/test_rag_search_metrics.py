"""Measures against values worked out by hand, and the files the questions come from."""

from __future__ import annotations

from math import log2
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from chatlm import UsageError
from chatlm_rag import evaluation
from chatlm_rag.evaluation import read_judgements, read_questions
from chatlm_rag.retrieval.search import fuse


def scores(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


JUDGED = {"a": 3, "b": 1, "c": 0, "d": 2}


def test_ndcg_is_what_trec_eval_computes() -> None:
    gained = 1 / log2(2) + 0 / log2(3) + 3 / log2(4)
    best = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    assert evaluation.ndcg(["b", "c", "a", "x"], JUDGED, 10) == pytest.approx(gained / best)


def test_ndcg_looks_no_further_than_k() -> None:
    assert evaluation.ndcg(["x", "a"], JUDGED, 1) == 0
    assert evaluation.ndcg(["a"], JUDGED, 1) == 1


def test_recall_counts_only_documents_that_answer() -> None:
    assert evaluation.recall(["c", "a", "x", "d"], JUDGED, 3) == pytest.approx(1 / 3)
    assert evaluation.recall(["c", "a", "x", "d"], JUDGED, 4) == pytest.approx(2 / 3)


def test_reciprocal_rank_is_that_of_the_first_answer_within_k() -> None:
    assert evaluation.reciprocal_rank(["c", "x", "d", "a"], JUDGED, 10) == pytest.approx(1 / 3)
    assert evaluation.reciprocal_rank(["c", "x", "d", "a"], JUDGED, 2) == 0


def test_a_fused_score_is_1_for_what_is_best_of_both() -> None:
    fused = fuse(scores(0.8, 0.8, -1.0), scores(4.0, 0.0, 2.0))
    assert fused[0] == pytest.approx(1)
    assert fused[0] > fused[1] > fused[2]


def test_a_fused_score_does_not_depend_on_the_range_of_the_cosines() -> None:
    lexical = scores(1.0, 3.0, 0.0)
    wide, narrow = scores(0.9, 0.1, 0.0), scores(0.89, 0.81, 0.80)
    assert fuse(wide, lexical) == pytest.approx(fuse(narrow, lexical), abs=1e-4)


def test_without_a_word_in_common_the_meaning_alone_orders() -> None:
    fused = fuse(scores(0.1, 0.5, 0.3), scores(0.0, 0.0, 0.0))
    assert fused == pytest.approx([0, 1, 0.5], abs=1e-5)


def test_candidates_that_are_all_alike_have_the_same_fused_score() -> None:
    assert fuse(scores(0.5), scores(2.0)) == pytest.approx([1])
    assert fuse(scores(0.5, 0.5), scores(0.0, 0.0)) == pytest.approx([1, 1])


def test_questions_and_judgements_are_read(tmp_path: Path) -> None:
    queries, qrels = tmp_path / "queries.jsonl", tmp_path / "qrels.tsv"
    queries.write_text('\ufeff{"_id": "1", "text": "Why?\u2028How?"}\r\n\n', encoding="utf-8")
    qrels.write_text("query-id\tcorpus-id\tscore\r\n1\tdoc a\t2\r\n1\tb\t-1\n", encoding="utf-8")
    assert read_questions(queries) == {"1": "Why?\u2028How?"}
    assert read_judgements(qrels) == {"1": {"doc a": 2, "b": -1}}


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"_id": "1"}', '{"_id": 1, "text": "a"}', "7", "[" * 100_000]
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(f'{{"_id": "0", "text": "a"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="line 2"):
        read_questions(path)


@pytest.mark.parametrize("line", ["1 a 1", "1\ta\tx", "1\ta", "1\t0\ta\t1", f"1\ta\t{10**400}"])
def test_a_line_that_is_no_judgement_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text(f"1\ta\t1\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 2"):
        read_judgements(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "qrels.tsv"
    if content:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"qrels\.tsv"):
        read_judgements(path)
