"""An index with damaged files: an error that says so, whatever the damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chatlm import ChatlmError, UsageError
from chatlm_rag.index import builder, checksums, folder, manifest
from chatlm_rag.index.checkpoint import EMBEDDINGS_FILE
from chatlm_rag.retrieval.search import Index
from tests.plugins.rag_chats import CATS, NAME, house
from tests.plugins.ui import RememberingWork


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with house(tmp_path_factory.mktemp("damage") / "home") as folder_of_documents:
        yield folder_of_documents


def npy(array: NDArray[Any], *, pickled: bool = False) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def damaged_versions(path: Path) -> Iterator[bytes]:
    """Return damaged versions of a file: by a disk, a partial copy or an attacker."""
    content = path.read_bytes()
    yield from (b"", content[: len(content) // 2], bytes(len(content)), b"\xff" * len(content))
    if path.suffix == ".npy":
        array = np.load(path)
        yield npy(np.array([print], dtype=object), pickled=True)
        yield from map(npy, (array[:0], array[:-1], array.ravel(), array.astype("S9"), array[0]))
        yield from map(npy, (array.reshape(*array.shape, 1), array[::-1], array[..., :1]))
        for shape in (b"(-1, 384)", b"(10000000000, 384)", b"(10000000000000000000, 384)"):
            yield content.replace(b"(%d, 384)" % len(array), shape)
    elif path.suffix == ".json":
        values = json.loads(content)
        yield from (b"null", b"[]", b"7", b"{}", b"[" * 100_000)
        for name in list(values)[:8]:
            for other in ("x", -5):
                yield json.dumps({**values, name: other}).encode()
    elif path.suffix == ".jsonl":
        for line in (b"null", b"[7]", b'{"a":1}', content[:-1].replace(b'"text":"', b'"text":7,"')):
            yield b"".join(
                line[: len(each) - 1].ljust(len(each) - 1) + b"\n"
                for each in content.splitlines(keepends=True)
            )


def test_an_index_that_is_damaged_in_any_way_breaks_nothing(
    documents: Path, tmp_path: Path
) -> None:
    place, whole = folder.find_index(NAME).path, tmp_path / "whole"
    shutil.copytree(place, whole)
    said = []
    for path in sorted(path for path in whole.rglob("*") if path.is_file()):
        for number, content in enumerate(damaged_versions(path)):
            for step in (ask,) if path.parent.name == "lexical" else (ask, change):
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(whole, place)
                (place / path.relative_to(whole)).write_bytes(content)
                try:
                    step(documents)
                except ChatlmError as error:
                    said.append(error.hint)
                except Exception as error:
                    raise AssertionError(f"{path.name}, {number}, {step.__name__}") from error
    assert len(said) > 100
    assert all("chatlm rag" in hint or "chatlm models" in hint for hint in said)
    shutil.rmtree(place)
    shutil.copytree(whole, place)
    (place / "1" / EMBEDDINGS_FILE).write_bytes(b"")
    builder.rebuild(NAME, work())
    assert ask(documents)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file, which no format notices."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def ask(_: Path) -> bool:
    index = Index.open(folder.find_index(NAME))
    return index.confidence(CATS, index.search(CATS)) > 0


def verify(_: Path) -> None:
    checksums.verify(folder.find_index(NAME))


def update(documents: Path) -> None:
    """Bring the index up to date with a new file."""
    (documents / "new.txt").write_text("A new file.\n")
    try:
        builder.update(NAME, work())
    finally:
        (documents / "new.txt").unlink()


@pytest.mark.parametrize("step", [ask, update, verify])
def test_a_flipped_bit_is_noticed_in_every_file(
    documents: Path, tmp_path: Path, step: Callable[[Path], object]
) -> None:
    place, whole = folder.find_index(NAME).path, tmp_path / "whole"
    shutil.copytree(place, whole)
    version = folder.find_index(NAME).current()
    assert version
    checksums.verify(folder.find_index(NAME))
    for path in [path for path in version.rglob("*") if path.is_file()]:
        if path.name in (manifest.FILE, checksums.FILE):
            continue
        flip(path)
        name = path.relative_to(version).as_posix()
        try:
            with pytest.raises(ChatlmError, match=f"{name}: its content changed"):
                step(documents)
        finally:
            shutil.rmtree(place)
            shutil.copytree(whole, place)


def test_an_index_of_an_earlier_chatlm_has_no_checksums(documents: Path) -> None:
    version = folder.find_index(NAME).current()
    assert version
    file = version / checksums.FILE
    content = file.read_bytes()
    file.unlink()
    assert ask(documents)
    with pytest.raises(UsageError, match="has no checksums"):
        checksums.verify(folder.find_index(NAME))
    file.write_bytes(content)


def change(documents: Path) -> None:
    """Bring the index up to date with a file that has another name now."""
    here, away = documents / "tides.txt", documents / "moved.txt"
    path, to = (here, away) if here.exists() else (away, here)
    path.rename(to)
    builder.update(NAME, work())


def work() -> RememberingWork:
    return RememberingWork(cancelled=False)
