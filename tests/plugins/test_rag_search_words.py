"""Words, wordings, confidence and reranking, each without an embedder."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest

from chatlm import ChatlmError
from chatlm_rag.index import bm25 as bm25_module
from chatlm_rag.index.chunks import Chunk
from chatlm_rag.reading.reader import Reading
from chatlm_rag.retrieval import relevance
from chatlm_rag.retrieval.hits import RankedScore, SearchHit
from chatlm_rag.retrieval.search import Reranker, Shingles, configured_reranker
from tests import models

TEXTS = ["The stop_reason of a reply.", "Stopping and stopped.", "Über Größe", "…", "reply reply"]


@pytest.fixture
def words(tmp_path: Path) -> bm25_module.BM25Index:
    bm25_module.write(tmp_path, TEXTS)
    return bm25_module.load(tmp_path)


def test_scores_are_bm25(words: bm25_module.BM25Index) -> None:
    lengths = [len(bm25_module.stems(text)) for text in TEXTS]
    rarity = log(1 + (5 - 2 + 0.5) / (2 + 0.5))

    def bm25(times: int, length: int) -> float:
        return rarity * times / (times + 1.5 * (0.25 + 0.75 * length / (sum(lengths) / 5)))

    scores = words.scores("reply")
    assert scores[0] == pytest.approx(bm25(1, lengths[0]))
    assert scores[4] == pytest.approx(bm25(2, lengths[4]))
    assert scores[[1, 2, 3]].tolist() == [0, 0, 0]
    assert words.idf("repli") == pytest.approx(rarity)
    assert words.idf("unheard") > words.idf("repli") > 0


def test_words_are_found_in_other_forms_and_inside_names(words: bm25_module.BM25Index) -> None:
    assert (words.scores("stops") > 0).tolist() == [True, True, False, False, False]
    assert (words.scores("REASON") > 0).tolist() == [True, False, False, False, False]
    assert (words.scores("größe") > 0).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("query", ["", "the of", "unheard", "…", "\ud800"])
def test_a_query_may_have_no_known_word(words: bm25_module.BM25Index, query: str) -> None:
    assert words.scores(query).tolist() == [0] * 5


def test_texts_may_have_no_words(tmp_path: Path) -> None:
    bm25_module.write(tmp_path, ["…", "the"])
    assert bm25_module.load(tmp_path).scores("the word").tolist() == [0, 0]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    bm25_module.write(tmp_path, TEXTS)
    files = [path for path in (tmp_path / bm25_module.FOLDER).iterdir() if path.suffix != ".json"]
    assert files
    for path in files:
        assert np.load(path, allow_pickle=False).dtype.kind in "fiu"


def test_wordings() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve " * 4
    assert Shingles(text).is_near_duplicate(Shingles(text.upper().replace(" ", "\n")))
    assert Shingles(text).is_near_duplicate(Shingles(text + "thirteen"))
    assert not Shingles(text).is_near_duplicate(Shingles(text + "13"))
    assert not Shingles(text).is_near_duplicate(Shingles(text + "another fourteen words " * 4))
    assert Shingles("word").is_near_duplicate(Shingles("Word"))
    assert not Shingles("word").is_near_duplicate(Shingles("other"))


def search_hit(text: str, cosine: float) -> SearchHit:
    piece = Chunk(0, text, "a", "", 0, len(text))
    return SearchHit(piece, 1.0, RankedScore(cosine, 1), RankedScore(0.0, 1))


def test_the_evidence_is_that_of_the_quoted_statement_and_its_passage() -> None:
    rarity = {"boiler": 3.0, "servic": 1.0}.__getitem__
    hits = [search_hit("Bread.", 0.6), search_hit("The boiler in May.", 0.4)]
    readings = [Reading(("Bread.",), (-2.0,)), Reading(("The boiler in May.",), (1.5,))]
    found = relevance.gather("When is boiler service?", hits, readings, rarity)
    assert found == relevance.Evidence(1.5, 0.4, 3 / 4, 3 / 4)
    dated = [search_hit("Service of the boiler.", 0.6), search_hit("It is in May.", 0.4)]
    readings = [Reading(("Service of the boiler.",), (2.0,)), Reading(("It is in May.",), (1.5,))]
    found = relevance.gather("When is boiler service?", dated, readings, rarity)
    assert found == relevance.Evidence(1.5, 0.4, 0, 0)  # it is quoted, since it names a date
    assert relevance.gather("Boiler?", hits, [Reading((), ())], rarity) is None
    assert relevance.gather("Boiler?", [], [], rarity) is None
    assert relevance.confidence(None) == 0


def test_more_evidence_gives_more_confidence() -> None:
    weak = relevance.Evidence(-3.0, 0.1, 0.2, 0.0)
    strong = relevance.Evidence(4.0, 0.8, 1.0, 1.0)
    assert 0 < relevance.confidence(weak) < 0.2 < 0.8 < relevance.confidence(strong) < 1


def test_the_curve_has_what_each_threshold_does() -> None:
    points = relevance.threshold_curve([0.5, 0.8], [0.2, 0.6])
    assert [(p.threshold, p.kept_rate, p.refused_rate) for p in points] == [
        (0.2, 1, 0),
        (0.5, 1, 0.5),
        (0.6, 0.5, 0.5),
        (0.8, 0.5, 1),
    ]


def test_the_threshold_keeps_92_of_100() -> None:
    values = [number / 100 for number in range(100)]
    threshold = relevance.calibrate(values)
    assert sum(value >= threshold for value in values) == 92


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real one in form, whose weights say nothing."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("cross-encoder")
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{a}" for a in letters),
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, initializer_range=1.0,
    )  # fmt: skip
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_cross_encoder_reads_query_and_text_together(cross_encoder: Path) -> None:
    reranker = Reranker(cross_encoder)
    scores = reranker.scores("which one", ["a", "b", "a"])
    assert scores.shape == (3,)
    assert scores[0] == pytest.approx(scores[2], abs=1e-6)
    assert scores[0] != scores[1]
    assert reranker.scores("another query", ["a"])[0] != scores[0]
    assert reranker.scores("which \ud800", ["a"])[0] == reranker.scores("which ?", ["a"])[0]


def test_the_settings_name_the_cross_encoder(
    home: Path, cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configured_reranker() is None
    monkeypatch.setenv("CHATLM_RAG_RERANKER", str(cross_encoder))
    reranker = configured_reranker()
    assert reranker is configured_reranker()
    assert reranker
    assert reranker.scores("a", ["b"]).shape == (1,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ms-marco-minilm-l6-v2", "not on this machine yet"),
        ("{embedder}", "is not a reranker"),
        ("/nowhere", "no model folder"),
    ],
)
def test_a_reranker_that_cannot_be_used_is_named(
    name: str, message: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name.format(embedder=models.embedder_model())
    monkeypatch.setenv("CHATLM_RAG_RERANKER", name)
    with pytest.raises(ChatlmError, match=message):
        configured_reranker()


def test_a_damaged_cross_encoder_is_reported(cross_encoder: Path, tmp_path: Path) -> None:
    for path in cross_encoder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ChatlmError, match="cannot be loaded"):
        Reranker(tmp_path).scores("a", ["b"])
