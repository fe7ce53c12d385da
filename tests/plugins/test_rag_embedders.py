"""Embedders by name: their prompts and sizes, static ones, and changing that of an index."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from chatlm import UsageError
from chatlm.hub.catalogue import catalogue
from chatlm_rag.commands import rag
from chatlm_rag.documents.files import Source
from chatlm_rag.index import builder, folder, manifest, writer
from chatlm_rag.index.chunks import Chunking
from chatlm_rag.index.embedding import (
    Embedder,
    EmbedderRecord,
    LocalEmbedder,
    fetch_embedder,
)
from chatlm_rag.index.writer import BuildStopped
from chatlm_rag.retrieval.search import Index
from tests import models

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIMENSION = 8


class Watched:
    """Records the progress of work, and may cancel it from one of its steps on."""

    def __init__(self, cancel_at: str = "") -> None:
        self.notes: list[str] = []
        self._cancel_at = cancel_at

    @property
    def cancelled(self) -> bool:
        return bool(self._cancel_at) and any(self._cancel_at in note for note in self.notes)

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        self.notes.append(note)


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model2vec model of random numbers."""
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("models") / "static"
    path.mkdir()
    shutil.copy(models.embedder_model() / "tokenizer.json", path)
    (path / "config.json").write_text('{"model_type": "model2vec", "architectures": ["X"]}')
    save_file({"embeddings": table()}, path / "model.safetensors")
    return path


def table() -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    return random.standard_normal((30_522, DIMENSION), dtype=np.float32)


@pytest.fixture
def docs(rag_home: Path, tmp_path: Path) -> Path:
    """Documents, and an index `pets` of them with the default embedder."""
    path = tmp_path / "docs"
    path.mkdir()
    for name, text in {"cat": "A cat sleeps.", "moon": "The moon is round."}.items():
        (path / f"{name}.txt").write_text(text)
        os.utime(path / f"{name}.txt", (1_600_000_000, 1_600_000_000))
    builder.build("pets", (Source(str(path)),), Watched())
    return path


def current() -> manifest.Manifest:
    return folder.find_index("pets").open(manifest.read)


def test_each_embedder_of_the_catalogue_says_what_an_index_needs() -> None:
    embedders = {name: e for name, e in catalogue().items() if e.kind == "embedder"}
    assert len(embedders) >= 6
    for entry in embedders.values():
        assert entry.languages
        assert entry.embedding
        assert entry.embedding.scores
    bge = embedders["bge-small-en-v1.5"].embedding
    assert bge
    assert bge.query_prompt == "Represent this sentence for searching relevant passages: "
    assert bge.passage_prompt == ""
    assert all(entry.languages for entry in catalogue().values() if entry.kind == "reranker")


def test_prompts_stand_before_queries_and_passages() -> None:
    path = models.embedder_model()
    prompted = Embedder(path, EmbedderRecord("x", "", "query: ", "passage: "))
    plain = Embedder(path)
    assert prompted.embed_query("cat") == pytest.approx(plain.embed_query("query: cat"), abs=1e-6)
    assert np.allclose(prompted.embed(["cat"]), plain.embed(["passage: cat"]), atol=1e-3)


def test_a_static_embedder_has_the_mean_of_its_rows(static: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(static / "tokenizer.json"))
    tokenizer.no_padding()
    ids = tokenizer.encode("a cat sleeps", add_special_tokens=False).ids
    mean = table()[ids].mean(axis=0)
    embedder = Embedder(static)
    assert embedder.dimension == DIMENSION
    assert embedder.embed(["a cat sleeps"])[0] == pytest.approx(
        mean / np.linalg.norm(mean), abs=1e-5
    )


def test_vectors_are_cut_and_have_unit_length_again(static: Path) -> None:
    whole = Embedder(static).embed_query("a cat")
    cut = Embedder(static, EmbedderRecord("static", "", cut_to=4)).embed_query("a cat")
    assert cut == pytest.approx(whole[:4] / np.linalg.norm(whole[:4]), abs=1e-5)
    with pytest.raises(UsageError, match="8 numbers and cannot be cut to 9"):
        _ = Embedder(static, EmbedderRecord("static", "", cut_to=9)).dimension


def test_a_size_that_the_card_does_not_name_is_refused(rag_home: Path) -> None:
    with pytest.raises(UsageError) as refused:
        fetch_embedder("qwen3-embedding:0.6b", Watched(), cut_to=100)
    assert refused.value.hint.startswith("They can be cut to 768, 512")
    with pytest.raises(UsageError) as refused:
        fetch_embedder("all-minilm-l6-v2", Watched(), cut_to=128)
    assert refused.value.hint == "It has one size only."


def test_another_embedder_embeds_the_passages_again(docs: Path, static: Path) -> None:
    assert builder.estimate_cost("pets", "all-minilm-l6-v2", Watched()) is None
    cost = builder.estimate_cost("pets", str(static), Watched(), cut_to=4)
    assert cost
    assert (cost.passages, cost.bytes) == (2, 2 * 4 * 4)
    assert "Embedding 2 passages with" in cost.describe()
    done = builder.change_embedder("pets", Watched(), str(static), cut_to=4)
    assert (done.embedded, done.manifest.dimension) == (2, 4)
    assert done.manifest.embedder.cut_to == 4
    index = Index.open(folder.find_index("pets"))
    assert index.search("cat")[0].chunk.source == "docs/cat.txt"
    assert not builder.update("pets", Watched()).changed


def test_a_change_that_is_stopped_leaves_the_index_and_can_be_continued(
    docs: Path, static: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "EMBED_WINDOW", 1)
    with pytest.raises(BuildStopped):
        builder.change_embedder("pets", Watched("moon.txt"), str(static))
    assert current().embedder.name == "all-minilm-l6-v2"
    assert Index.open(folder.find_index("pets")).search("cat")[0].chunk.source == "docs/cat.txt"
    done = builder.update("pets", Watched())
    assert (done.embedded, done.manifest.embedder.name) == (1, str(static))


def test_a_change_that_was_stopped_can_be_given_up(docs: Path, static: Path) -> None:
    with pytest.raises(BuildStopped):
        builder.change_embedder("pets", Watched("loading the embedder"), str(static))
    done = builder.change_embedder("pets", Watched(), "all-minilm-l6-v2")
    assert (done.changed, done.embedded) == (False, 0)
    assert not builder.update("pets", Watched()).changed
    assert current().embedder.name == "all-minilm-l6-v2"


def test_the_command_says_what_it_takes(docs: Path, static: Path) -> None:
    run = CliRunner().invoke(rag, ["update", "pets", "--embedder", str(static)])
    assert run.exit_code == 0
    assert "Embedding 2 passages with" in run.stderr
    assert current().embedder.name == str(static)
    run = CliRunner().invoke(rag, ["update", "pets", "--dimension", "4"])
    assert isinstance(run.exception, UsageError)


def test_passages_that_an_embedder_would_cut_off_are_refused(docs: Path) -> None:
    local = LocalEmbedder(models.embedder_model(), current().embedder)
    assert local.token_limit == 256
    with pytest.raises(UsageError, match="reads 256 tokens at most") as refused:
        builder.build("long", (Source(str(docs)),), Watched(), chunking=Chunking(400, 20))
    assert "--tokens 192" in refused.value.hint


def test_a_static_embedder_has_no_limit(static: Path) -> None:
    assert LocalEmbedder(static, EmbedderRecord("static", "")).token_limit is None


def test_an_index_without_prompts_in_its_manifest_is_read(docs: Path) -> None:
    values = current().to_dict()
    for key in ("query_prompt", "passage_prompt", "cut_to"):
        del values["embedder"][key]
    assert manifest.Manifest.from_dict(json.loads(json.dumps(values))) == current()
