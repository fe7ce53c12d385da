"""Searching an index built with the real embedder: hits, their order and scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from chatlm import ChatlmError, UsageError
from chatlm_rag import evaluation
from chatlm_rag.commands import rag
from chatlm_rag.documents.files import Source
from chatlm_rag.index import builder
from chatlm_rag.index.embedding import Embedder
from chatlm_rag.index.folder import find_index
from chatlm_rag.retrieval.search import Index, Reranker
from chatlm_rag.settings import DEFAULT_THRESHOLD
from tests import models

DOCUMENTS = {
    "lease": "The flat may be rented out to others only if the owner agrees in writing.",
    "notice": "Notice has to be given three months before the end of a quarter.",
    "pets": "Cats are allowed in the flat. Dogs need the owner's consent.",
    "heating": "The boiler is serviced each October; error E17 means too little water.",
    "heating-2019": "The boiler is serviced each October; error E18 means too little water.",
    "pets-copy": "Cats are allowed in the flat.  Dogs need the owner's consent.",
    "oven": "Bread is baked at 240 degrees with steam for the first ten minutes.",
    "tides": "At spring tide the moon and the sun pull in the same direction.",
}


class Silent:
    cancelled = False

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        pass


@pytest.fixture(scope="module")
def index_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("rag")
    corpus = home / "corpus.jsonl"
    rows = [{"_id": name, "title": "", "text": text} for name, text in DOCUMENTS.items()]
    corpus.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    models.lend(home, models.embedder_model())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLM_HOME", str(home))
        builder.build("flat", (Source(str(corpus)),), Silent())
        yield home


@pytest.fixture(scope="module")
def index(index_home: Path) -> Index:
    return Index.open(find_index("flat"))


def chatlm_rag(*arguments: str) -> Result:
    return CliRunner().invoke(rag, arguments, catch_exceptions=False)


def test_vectors_are_those_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    folder = models.embedder_model()
    texts = ["a much longer text " * 60, *(["short", "", *DOCUMENTS.values()] * 4)]
    seen: list[tuple[int, int]] = []
    embedder = Embedder(folder)
    vectors = embedder.embed(texts, progress=lambda done, total: seen.append((done, total)))
    right = SentenceTransformer(str(folder), local_files_only=True).encode(texts)
    assert vectors.dtype == np.float32
    assert (vectors * right).sum(axis=1).min() > 0.999
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert seen == [(16, 41), (32, 41), (41, 41)]
    assert embedder.embed_query("short") == pytest.approx(right[1], abs=1e-5)
    assert (embedder.name, embedder.dimension) == ("all-minilm-l6-v2", 384)


def test_no_texts_have_no_vectors() -> None:
    assert Embedder(models.embedder_model()).embed([]).shape == (0, 384)


def test_a_folder_without_an_embedder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChatlmError, match="is not an embedder"):
        Embedder(tmp_path).embed_query("x")


def test_a_synonym_is_found_without_a_common_word(index: Index) -> None:
    found = index.search("Am I permitted to sublet my apartment?")
    assert found[0].chunk.source == "lease"
    assert found[0].dense.rank == 1
    assert found[0].lexical.score == 0


def test_a_rare_word_is_found_exactly(index: Index) -> None:
    found = index.search("E17")
    assert found[0].chunk.source == "heating"
    assert found[0].lexical.rank == 1
    assert found[0].lexical.score > 0
    assert [each.score for each in found] == sorted((f.score for f in found), reverse=True)


def test_other_forms_of_a_word_are_found(index: Index) -> None:
    assert index.search("bake")[0].lexical.score > 0


def test_chunks_with_equal_text_are_merged(index: Index) -> None:
    found = index.search("Are cats allowed in the flat?", 20)
    sources = [each.chunk.source for each in found]
    assert ("pets" in sources) != ("pets-copy" in sources)
    assert {found[0].chunk.source, found[0].duplicates[0].source} == {"pets", "pets-copy"}


def test_chunks_that_differ_in_a_number_stay_apart(index: Index) -> None:
    sources = [each.chunk.source for each in index.search("boiler error", 20)]
    assert {"heating", "heating-2019"} <= set(sources)


def test_no_more_are_found_than_wanted(index: Index) -> None:
    assert len(index.search("flat", 2)) == 2
    assert len(index.search("flat", 20)) == len(DOCUMENTS) - 1


def test_a_reranker_has_the_last_word(index: Index) -> None:
    class LongestFirst(Reranker):
        def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.array([len(text) for text in texts], np.float32)

    found = index.search("May I have a cat?", 3, LongestFirst(Path()))
    lengths = sorted(map(len, DOCUMENTS.values()), reverse=True)
    assert [each.rerank_score for each in found] == lengths[:3]
    assert index.search("May I have a cat?", 3)[0].rerank_score is None


@pytest.mark.parametrize("query", ["", "?!", "the", "\x00\ud800", "zzzzqqqq " * 500])
def test_any_query_is_answered(index: Index, query: str) -> None:
    assert index.search(query)


def test_a_question_about_something_else_has_no_confidence(index: Index) -> None:
    def sure(question: str) -> float:
        return index.confidence(question, index.search(question))

    assert sure("When is the boiler serviced?") > DEFAULT_THRESHOLD
    assert sure("May I have a dog in the flat?") > DEFAULT_THRESHOLD
    assert sure("Who won the chess championship in Reykjavik?") < DEFAULT_THRESHOLD
    assert sure("How do I declare a generic class in Java?") < DEFAULT_THRESHOLD


def test_threads_may_search_at_once(index: Index) -> None:
    questions = [*DOCUMENTS.values()] * 5
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda question: index.search(question, 1)[0], questions))
    assert [each.chunk.text.split() for each in found] == [text.split() for text in questions]


def test_an_open_index_stays_as_it_is_while_it_is_updated(index_home: Path) -> None:
    opened = Index.open(find_index("flat"))
    builder.rebuild("flat", Silent())
    assert opened.search("E17")[0].chunk.source == "heating"


def test_the_command_prints_passages_and_where_they_are(index: Index) -> None:
    done = chatlm_rag("search", "flat", "When", "is", "the", "boiler", "serviced?")
    assert done.exit_code == 0
    assert done.stdout.startswith("[1] heating")
    assert "serviced each October" in done.stdout
    assert done.stderr == ""


def test_the_command_says_that_nothing_is_relevant(index: Index) -> None:
    done = chatlm_rag("search", "flat", "-n", "2", "Who won the chess championship in Reykjavik?")
    assert "Nothing relevant in flat" in done.stderr
    assert "[3]" not in done.stdout


def test_json_has_what_decided_the_order(index: Index) -> None:
    table = json.loads(chatlm_rag("search", "flat", "error E17", "--json").stdout)
    assert table["relevant"] is True
    first = table["passages"][0]
    assert first["piece"]["source"] == "heating"
    assert first["lexical"]["rank"] == 1


def test_text_of_documents_drives_no_terminal(index_home: Path) -> None:
    path = index_home / "evil.md"
    path.write_text("Evil bananas \x1b[2J\x1b]0;x\x07 are yellow.", encoding="utf-8")
    builder.build("evil", (Source(str(path)),), Silent())
    shown = chatlm_rag("search", "evil", "bananas").stdout
    assert "\x1b" not in shown
    assert "␛" in shown


def judged(folder: Path, judgements: str) -> tuple[str, ...]:
    (folder / "q.jsonl").write_text(
        '{"_id": "1", "text": "E17"}\n{"_id": "2", "text": "sublet"}\n{"_id": "3", "text": "x"}'
    )
    (folder / "r.tsv").write_text(judgements)
    return ("--queries", str(folder / "q.jsonl"), "--qrels", str(folder / "r.tsv"))


def test_eval_gives_the_scorecard(index: Index, tmp_path: Path) -> None:
    files = judged(tmp_path, "query-id\tcorpus-id\tscore\n1\theating\t1\n2\tlease\t1\n3\toven\t0\n")
    done = chatlm_rag("eval", "flat", *files, "--json", "--plot", str(tmp_path / "card.svg"))
    table = json.loads(done.stdout)
    assert (table["questions"], table["documents"]) == (2, len(DOCUMENTS))
    assert table["dense"]["recall@10"] == 1
    assert table["lexical"]["mrr@10"] == 0.5
    assert table["lexical"]["recall@10"] == 0.5  # no document has the word sublet
    assert table["lexical"]["intervals"]["recall@10"] == [0, 1]
    assert table["fused"].keys() >= set(evaluation.METRICS)
    assert "recall@100" in (tmp_path / "card.svg").read_text()


def test_eval_draws_the_scorecard(index: Index, tmp_path: Path) -> None:
    files = judged(tmp_path, "1\theating\t1\n2\tnowhere\t1\n")
    done = chatlm_rag("eval", "flat", *files)
    assert "2 questions, 8 documents" in done.stdout
    assert "Relevant documents missing from the index: 1" in done.stdout
    assert "●" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_eval_of_another_collection_is_reported(index: Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="None of the judged documents"):
        chatlm_rag("eval", "flat", *judged(tmp_path, "1\tother\t1\n"))
    with pytest.raises(UsageError, match="No question"):
        chatlm_rag("eval", "flat", *judged(tmp_path, "9\theating\t1\n"))


@pytest.mark.parametrize("name", ["card", "card.gif", "no/card.png"])
def test_an_impossible_plot_is_refused_first(index: Index, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"card|folder"):
        chatlm_rag("eval", "flat", *judged(tmp_path, ""), "--plot", str(tmp_path / name))


def test_a_damaged_index_is_reported(index_home: Path) -> None:
    path = index_home / "d.md"
    path.write_text("Some words.", encoding="utf-8")
    builder.build("damaged", (Source(str(path)),), Silent())
    folder = find_index("damaged").current()
    assert folder
    for file in folder.rglob("*.npy"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        if file.name != "digests.npy":  # which no search reads
            with pytest.raises(ChatlmError, match="damaged"):
                Index.open(find_index("damaged")).search("words")
        file.write_bytes(content)
    assert Index.open(find_index("damaged")).search("words")
