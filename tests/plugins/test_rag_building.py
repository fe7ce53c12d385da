"""Indices made with the real embedder: whole or not at all, and nothing is done twice."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from chatlm import ChatlmError, UsageError, fingerprint_weights
from chatlm_rag import formatting
from chatlm_rag.documents.files import Source
from chatlm_rag.index import bm25, builder, folder, manifest, vectors, writer
from chatlm_rag.index.builder import BuildResult
from chatlm_rag.index.checkpoint import EMBEDDINGS_FILE
from chatlm_rag.index.chunks import Chunking, ChunkReader
from chatlm_rag.index.embedding import Embedder, EmbedderRecord, find_index_embedder
from chatlm_rag.index.writer import BuildStopped
from tests import models

LONG_AGO = 1_600_000_000

TEXTS = {
    "cats.md": "# Cats\n\nA cat sleeps most of the day.\n\n## Food\n\nIt eats fish and meat.\n",
    "engine.txt": "The engine turns petrol into motion.\n",
    "moon.txt": "The moon goes round the earth in a month.\n",
}


class Watched:
    """Records the progress of work, and may cancel it at one of its steps."""

    def __init__(self, cancel_at: int = 0) -> None:
        self.seen: list[tuple[int, int | None, str]] = []
        self._cancel_at = cancel_at

    @property
    def cancelled(self) -> bool:
        return bool(self._cancel_at) and len(self.seen) >= self._cancel_at

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        self.seen.append((done, total, note))


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return write(tmp_path / "docs", TEXTS)


def write(root: Path, texts: dict[str, str]) -> Path:
    """Write files that changed long ago."""
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (LONG_AGO, LONG_AGO))
    return root


def build(root: Path, name: str = "pets", **more: Any) -> BuildResult:
    return builder.build(name, (Source(str(root)),), Watched(), **more)


def current(name: str = "pets") -> Path:
    found = folder.find_index(name).current()
    assert found
    return found


def embeddings(name: str = "pets") -> Any:
    return np.load(current(name) / EMBEDDINGS_FILE)


def sources(name: str = "pets") -> list[str]:
    return [piece.source for piece in ChunkReader(current(name))]


def test_an_index_contains_what_was_read(rag_home: Path, docs: Path) -> None:
    work = Watched()
    done = builder.build("pets", (Source(str(docs)),), work)
    assert (done.changed, done.files_read, done.embedded, done.manifest.chunk_count) == (
        True,
        3,
        4,
        4,
    )
    pieces = list(ChunkReader(current()))
    assert [(piece.source, piece.place, piece.line) for piece in pieces] == [
        ("docs/cats.md", "Cats", 1),
        ("docs/cats.md", "Cats > Food", 5),
        ("docs/engine.txt", "", 1),
        ("docs/moon.txt", "", 1),
    ]
    for piece in pieces:
        record = done.manifest.file_of(piece.id)
        assert (docs / Path(record.path).name).read_text()[piece.start : piece.end] == piece.text
    embedder = Embedder(models.embedder_model())
    assert np.allclose(
        embeddings(), embedder.embed([piece.indexed_text for piece in pieces]), atol=1e-5
    )
    ids, _ = vectors.load(current()).search(embedder.embed_query("What does a kitten eat?"), 1)
    assert list(ids) == [1]
    assert bm25.load(current()).scores("petrol").argmax() == 2
    shown = [done for done, _, _ in work.seen[1:-1]]
    assert shown == sorted(shown)
    assert work.seen[-1] == (1, 1, "writing the index")
    assert manifest.read(current()) == done.manifest
    left = sorted(path.name for path in folder.find_index("pets").path.iterdir())
    assert left == ["1", "CURRENT"]


def test_an_update_touches_only_what_changed(rag_home: Path, docs: Path) -> None:
    build(docs)
    before = embeddings()
    write(docs, {"cats.md": TEXTS["cats.md"] + "\n## Age\n\nTwenty years.\n", "new.txt": "New."})
    (docs / "engine.txt").unlink()
    done = builder.update("pets", Watched())
    assert (done.files_read, done.files_removed, done.embedded) == (2, 1, 2)
    assert sources() == ["docs/cats.md"] * 3 + ["docs/moon.txt", "docs/new.txt"]
    after = embeddings()
    assert (after[:2] == before[:2]).all()
    assert (after[3] == before[3]).all()
    assert current().name == "2"
    assert [path.name for path in current().parent.glob("*/")] == ["2"]


def test_an_update_without_changes_does_nothing(rag_home: Path, docs: Path) -> None:
    build(docs)
    assert not builder.update("pets", Watched()).changed
    os.utime(docs / "moon.txt", (LONG_AGO + 9, LONG_AGO + 9))
    assert not builder.update("pets", Watched()).changed
    record = manifest.read(current()).files[-1]
    assert record.stamp
    assert record.stamp.mtime_ns == (LONG_AGO + 9) * 10**9
    assert current().name == "1"


def test_a_change_within_the_resolution_of_file_times_is_seen(rag_home: Path, docs: Path) -> None:
    path = docs / "moon.txt"
    path.write_text("aaaa")
    stamp = path.stat()
    build(docs)
    path.write_text("bbbb")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert builder.update("pets", Watched()).files_read == 1
    assert ChunkReader(current())[-1].text == "bbbb"


def test_a_moved_file_is_not_embedded_again(rag_home: Path, docs: Path) -> None:
    build(docs)
    (docs / "moon.txt").rename(docs / "a-moon.txt")
    done = builder.update("pets", Watched())
    assert (done.files_read, done.files_removed, done.embedded) == (1, 1, 0)
    assert sources()[0] == "docs/a-moon.txt"


def test_equal_passages_are_embedded_once(rag_home: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "same", {f"{number}.txt": "All the same." for number in range(5)})
    assert build(root).embedded == 1
    assert len(sources()) == 5
    assert np.allclose(embeddings() - embeddings()[0], 0)


def test_an_unreadable_file_is_tried_again(rag_home: Path, docs: Path) -> None:
    (docs / "lost.txt").symlink_to(docs / "later")
    first = build(docs).manifest
    assert [problem.reason for _, problem in first.problems] == ["is a broken link"]
    assert not builder.update("pets", Watched()).changed
    write(docs, {"later": "Here now."})
    done = builder.update("pets", Watched())
    assert list(done.manifest.problems) == []
    assert sources().count("docs/lost.txt") == 1


def test_a_missing_source_keeps_its_passages(rag_home: Path, docs: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "disk", {"far.txt": "Far away."})
    builder.build("pets", (Source(str(docs)), Source(str(other))), Watched())
    other.rename(tmp_path / "unmounted")
    write(docs, {"new.txt": "New."})
    done = builder.update("pets", Watched())
    assert done.missing_sources == (str(other),)
    assert "disk/far.txt" in sources()
    (tmp_path / "unmounted").rename(other)
    assert not builder.update("pets", Watched()).changed


def test_add_adds_sources_and_replaces_patterns(rag_home: Path, docs: Path, tmp_path: Path) -> None:
    build(docs)
    other = write(tmp_path / "more", {"a.txt": "Something more."})
    assert builder.add("pets", (Source(str(other)),), Watched()).embedded == 1
    assert "more/a.txt" in sources()
    builder.add("pets", (Source(str(docs), include=("*.md",)),), Watched())
    assert set(sources()) == {"docs/cats.md", "more/a.txt"}
    with pytest.raises(UsageError, match="No such file"):
        builder.add("pets", (Source(str(tmp_path / "nowhere")),), Watched())


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(writer, "EMBED_WINDOW", 4)
    texts = {f"{number:02}.txt": f"Number {number} of many." for number in range(20)}
    return write(tmp_path / "many", texts)


def test_a_stopped_build_is_continued(rag_home: Path, many: Path) -> None:
    with pytest.raises(BuildStopped) as stopped:
        builder.build("many", (Source(str(many)),), Watched(cancel_at=6))
    assert stopped.value.hint == "Continue: chatlm rag update many"
    assert stopped.value.exit_code == 130
    index = folder.find_index("many")
    assert index.current() is None
    with pytest.raises(UsageError, match="not finished"):
        index.open(manifest.read)
    done = builder.update("many", Watched())
    assert 0 < done.embedded < 20
    assert done.manifest.chunk_count == 20
    build(many, "whole")
    assert np.allclose(embeddings("many"), embeddings("whole"), atol=1e-5)
    assert sources("many") == sources("whole")
    assert not index.partial.exists()


def test_a_stopped_update_leaves_the_old_index(rag_home: Path, many: Path) -> None:
    build(many, "many")
    write(many, {f"{number:02}.txt": f"Now {number}." for number in range(20)})
    before = sources("many")
    with pytest.raises(BuildStopped):
        builder.update("many", Watched(cancel_at=6))
    assert sources("many") == before
    assert ChunkReader(current("many"))[0].text == "Number 0 of many."
    assert 0 < builder.update("many", Watched()).embedded < 20
    assert ChunkReader(current("many"))[0].text == "Now 0."


def test_a_stopped_rebuild_stays_a_rebuild(rag_home: Path, many: Path) -> None:
    build(many, "many")
    cut = Chunking(64, 0)
    with pytest.raises(BuildStopped):
        builder.rebuild("many", Watched(cancel_at=6), chunking=cut)
    done = builder.update("many", Watched())
    assert done.manifest.chunking == cut
    assert 0 < done.embedded < 20


def test_a_full_disk_leaves_the_old_index(
    rag_home: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(docs)
    write(docs, {"new.txt": "New."})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(bm25, "write", full)
        with pytest.raises(ChatlmError, match="No space left") as failed:
            builder.update("pets", Watched())
    assert failed.value.hint.endswith("chatlm rag update pets")
    assert "docs/new.txt" not in sources()
    assert builder.update("pets", Watched()).embedded == 0
    assert "docs/new.txt" in sources()


def test_a_truncated_index_never_becomes_current(
    rag_home: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(docs)
    write(docs, {"new.txt": "New."})
    whole = bm25.write

    def cut(folder: Path, texts: list[str]) -> None:
        whole(folder, texts)
        os.truncate(folder / "digests.npy", 140)

    with monkeypatch.context() as patch:
        patch.setattr(bm25, "write", cut)
        with pytest.raises(ChatlmError, match="truncated"):
            builder.update("pets", Watched())
    assert "docs/new.txt" not in sources()


def test_a_file_that_cannot_grow_says_why(rag_home: Path, docs: Path) -> None:
    resource = pytest.importorskip("resource")
    build(docs)
    write(docs, {"new.txt": "New."})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        with pytest.raises(ChatlmError, match="File too large") as failed:
            builder.update("pets", Watched())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert failed.value.hint.endswith("chatlm rag update pets")
    builder.update("pets", Watched())
    assert "docs/new.txt" in sources()


def test_another_embedder_is_refused(rag_home: Path, docs: Path) -> None:
    made = build(docs).manifest
    assert made.embedder == EmbedderRecord(
        "all-minilm-l6-v2", fingerprint_weights(models.embedder_model())
    )
    assert find_index_embedder("pets", made.embedder).folder.name == "all-minilm-l6-v2"
    old = manifest.Manifest(**{**vars(made), "embedder": EmbedderRecord("all-minilm-l6-v2", "0")})
    manifest.write(current(), old)
    write(docs, {"new.txt": "New."})
    with pytest.raises(ChatlmError) as refused:
        builder.update("pets", Watched())
    assert refused.value.hint == "Rebuild it: chatlm rag update pets --rebuild"
    done = builder.rebuild("pets", Watched())
    assert done.embedded == 5
    assert done.manifest.embedder == made.embedder


def test_the_fingerprint_is_that_of_the_weights(tmp_path: Path) -> None:
    one = models.write_folder(tmp_path / "one", models.tiny_model(400_000))
    two = models.write_folder(tmp_path / "two", {**models.tiny_model(400_000), "more.json": b"{}"})
    assert fingerprint_weights(one) == fingerprint_weights(two)
    weights = two / "model.safetensors"
    weights.write_bytes(bytes(byte ^ 1 for byte in weights.read_bytes()))
    assert fingerprint_weights(one) != fingerprint_weights(two)


def test_file_names_need_not_be_utf8(rag_home: Path, docs: Path) -> None:
    path = os.fsencode(docs) + b"/caf\xe9.txt"
    Path(os.fsdecode(path)).write_text("The café opens at nine.\n", encoding="utf-8")
    done = build(docs)
    assert sources()[0] == "docs/caf?.txt"
    record = folder.find_index("pets").open(manifest.read).file_of(0)
    assert os.fsencode(record.path) == path
    assert record == done.manifest.file_of(0)
    assert not builder.update("pets", Watched()).changed


def test_invalid_names_are_refused(rag_home: Path, docs: Path, tmp_path: Path) -> None:
    for name in ("", "A", "../x", "a/b", "-x", "x" * 65):
        with pytest.raises(UsageError, match="is not a valid name"):
            build(docs, name)
    build(docs)
    with pytest.raises(UsageError, match="already") as taken:
        build(docs)
    assert "chatlm rag update pets" in taken.value.hint
    with pytest.raises(UsageError) as unknown:
        folder.find_index("pest")
    assert unknown.value.hint == "Did you mean pets?"
    empty = write(tmp_path / "empty", {"a.txt": "", "b.txt": "…"})
    with pytest.raises(UsageError, match="nothing to index") as nothing:
        build(empty, "none")
    assert "empty/a.txt is empty" in nothing.value.hint
    assert "empty/b.txt has no words" in nothing.value.hint
    assert [index.name for index in folder.all_indices()] == ["manual", "pets"]


def test_only_one_process_changes_an_index(rag_home: Path, docs: Path) -> None:
    build(docs)
    with (
        FileLock(folder.user_indices_dir() / ".pets.lock", is_singleton=False),
        pytest.raises(UsageError, match="Another chatlm"),
    ):
        builder.update("pets", Watched())


def test_leftovers_of_a_dead_process_are_deleted(rag_home: Path, docs: Path) -> None:
    build(docs)
    place = folder.find_index("pets").path
    write(place / "new", {"passages.jsonl": "half"})
    write(place / "2", {"passages.jsonl": "whole, but CURRENT was not written"})
    write(docs, {"new.txt": "New."})
    builder.update("pets", Watched())
    assert "docs/new.txt" in sources()
    assert sorted(path.name for path in place.iterdir()) == ["2", "CURRENT"]


def test_a_damaged_index_is_reported(rag_home: Path, docs: Path) -> None:
    build(docs)
    (current() / manifest.FILE).write_text('{"format": 99}')
    with pytest.raises(ChatlmError, match="format 99"):
        folder.find_index("pets").open(manifest.read)
    (current() / manifest.FILE).unlink()
    with pytest.raises(ChatlmError, match=r"manifest\.json is missing"):
        builder.update("pets", Watched())


def test_a_damaged_block_of_a_stopped_build_is_embedded_again(rag_home: Path, many: Path) -> None:
    with pytest.raises(BuildStopped):
        builder.build("many", (Source(str(many)),), Watched(cancel_at=6))
    blocks = sorted(folder.user_index("many").partial.glob("*.npy"))
    assert blocks
    blocks[0].write_bytes(blocks[0].read_bytes()[:-7])
    done = builder.update("many", Watched())
    assert done.manifest.chunk_count == len(embeddings("many")) == done.embedded


def test_an_index_that_is_replaced_while_it_is_opened(rag_home: Path, docs: Path) -> None:
    build(docs)
    tried = []

    def opener(at: Path) -> int:
        tried.append(at.name)
        if at.name == "1":
            write(docs, {"new.txt": "New."})
            builder.update("pets", Watched())
            raise RuntimeError("what FAISS raises for a file that is gone")
        return manifest.read(at).chunk_count

    assert folder.find_index("pets").open(opener) == 5
    assert tried == ["1", "2"]


def test_readers_are_never_disturbed(rag_home: Path, docs: Path) -> None:
    build(docs)
    index = folder.find_index("pets")
    ended = threading.Event()
    seen: set[int] = set()
    faults: list[BaseException] = []

    def read() -> None:
        try:
            while not ended.is_set():
                passages, found = index.open(lambda at: (ChunkReader(at), vectors.load(at)))
                assert len(passages) == len(found)
                seen.add(len(list(passages)))
                passages.close()
        except BaseException as error:
            faults.append(error)

    held = index.open(ChunkReader)
    matrix = index.open(lambda at: np.load(at / EMBEDDINGS_FILE, mmap_mode="r"))
    kept = [piece.text for piece in held]
    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(6):
        write(docs, {f"{number}.txt": f"More and more, {number} times."})
        builder.update("pets", Watched())
    ended.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(seen) > 1
    assert [piece.text for piece in held] == kept
    assert np.isfinite(matrix).all()


def test_a_million_passages_open_at_once(tmp_path: Path) -> None:
    import tracemalloc

    from chatlm_rag.index.chunks import CHUNKS_FILE, OFFSETS_FILE

    line = b'{"text":"x","source":"s","place":"","start":0,"end":1,"title":"","line":1}\n'
    count = 1_000_000
    (tmp_path / CHUNKS_FILE).write_bytes(line * count)
    np.save(tmp_path / OFFSETS_FILE, np.arange(count + 1, dtype=np.uint64) * len(line))
    tracemalloc.start()
    passages = ChunkReader(tmp_path)
    assert passages[999_999].text == "x"
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000, "bytes; less than one for each passage was read"
    (tmp_path / CHUNKS_FILE).write_bytes(line)
    with pytest.raises(ValueError, match="does not have the size"):
        ChunkReader(tmp_path)


def test_a_build_says_how_many_links_were_left_out(
    rag_home: Path, docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = write(tmp_path / "outside", {"secret.txt": "The code is 1234.\n"}) / "secret.txt"
    for name in ("one.txt", "two.txt"):
        (docs / name).symlink_to(secret)
    done = build(docs)
    formatting.print_build_result(folder.find_index("pets"), done, as_json=False)
    said = capsys.readouterr().err
    assert (
        said
        == "2 links that lead out of the folder were left out. To index them too: --follow-links\n"
    )
    assert "docs/one.txt" not in sources()
    done = builder.add("pets", (Source(str(docs), follow_links=True),), Watched())
    formatting.print_build_result(folder.find_index("pets"), done, as_json=False)
    assert capsys.readouterr().err == ""
    assert {"docs/one.txt", "docs/two.txt"} < set(sources())


def test_looking_for_changes_stops_when_asked(rag_home: Path, docs: Path) -> None:
    """The second look is at the first entry of the folder; nothing has been read yet."""
    with pytest.raises(BuildStopped):
        builder.build("pets", (Source(str(docs)),), Watched(cancel_at=1))
    assert not folder.user_index("pets").partial.exists()
