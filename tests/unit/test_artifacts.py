"""Named folders, shipped and user-owned; folders replaced version by version."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chatlm import ChatlmError, UsageError
from chatlm.plugin_kit.artifacts import Artifacts, VersionedFolder


@pytest.fixture
def recipes(home: Path, tmp_path: Path) -> Artifacts:
    for name in ("soup", "bread", "No Name"):
        (tmp_path / "shipped" / name).mkdir(parents=True)
    return Artifacts("artwork", "chatlm art", tmp_path / "shipped", reserved={"off"})


def make(recipes: Artifacts, name: str) -> None:
    with recipes.create(recipes.new(name)) as folder:
        (folder / "text").write_text(name)


def test_user_owned_artifacts_hide_shipped_ones(recipes: Artifacts, home: Path) -> None:
    make(recipes, "soup")
    make(recipes, "cake")
    assert [(artifact.name, artifact.user_owned) for artifact in recipes.all()] == [
        ("bread", False),
        ("cake", True),
        ("soup", True),
    ]
    assert recipes.get("cake").path == home / "artworks" / "cake"
    assert recipes.get("cake").size_bytes == 4
    recipes.get("soup").remove()
    assert not recipes.get("soup").user_owned, "the shipped one is visible again"
    with pytest.raises(UsageError, match="The artwork soup comes with chatlm"):
        recipes.get("soup").remove()
    assert [path.name for path in (home / "artworks").iterdir()] == ["cake"]


def test_names_are_validated_and_similar_ones_suggested(recipes: Artifacts) -> None:
    make(recipes, "cake")
    for name in ("off", "a b", "../x", "", "A", "a" * 65, "-a"):
        with pytest.raises(UsageError, match="An artwork cannot be called"):
            recipes.new(name)
    with pytest.raises(UsageError, match="There is already an artwork cake") as taken:
        recipes.new("cake")
    assert taken.value.hint == "Choose another name, or remove it: chatlm art remove cake"
    assert recipes.new("soup").user_owned, "the name of a shipped one can be used"
    with pytest.raises(UsageError, match="There is no artwork 'brad'") as near:
        recipes.get("brad")
    assert near.value.hint == "Did you mean bread?"
    with pytest.raises(UsageError) as none:
        recipes.get("zzz")
    assert none.value.hint == "List them: chatlm art list"


def test_a_failed_artifact_leaves_nothing(recipes: Artifacts, home: Path) -> None:
    with pytest.raises(RuntimeError), recipes.create(recipes.new("cake")) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list((home / "artworks").iterdir()) == []
    full = pytest.raises(ChatlmError, match="Artworks cannot be written")
    with full as caught, recipes.create(recipes.new("cake")):
        raise OSError(28, "No space left on device")
    assert caught.value.message.endswith("No space left on device.")
    assert list((home / "artworks").iterdir()) == []


def write_version(folder: VersionedFolder, text: str) -> None:
    with folder.lock():
        (folder.create_new() / "text").write_text(text)
        folder.commit()


def read_text(folder: Path) -> str:
    return (folder / "text").read_text()


@pytest.fixture
def versions(tmp_path: Path) -> VersionedFolder:
    return VersionedFolder(tmp_path / "all" / "cake")


def test_each_commit_replaces_the_version_before(versions: VersionedFolder) -> None:
    assert versions.current() is None
    with pytest.raises(FileNotFoundError):
        versions.open(read_text)
    write_version(versions, "one")
    assert versions.open(read_text) == "one"
    versions.partial.mkdir()
    write_version(versions, "two")
    assert versions.open(read_text) == "two"
    assert versions.current() == versions.path / "2"
    assert sorted(path.name for path in versions.path.iterdir()) == ["2", "CURRENT"]
    age = datetime.now(UTC) - versions.committed_at()
    assert timedelta(seconds=-5) < age < timedelta(minutes=5)


def test_a_version_replaced_while_it_is_opened_is_opened_again(versions: VersionedFolder) -> None:
    write_version(versions, "one")
    opened = []

    def replaced_meanwhile(folder: Path) -> str:
        opened.append(folder.name)
        if len(opened) == 1:
            write_version(versions, "two")
        return read_text(folder)

    assert versions.open(replaced_meanwhile) == "two"
    assert opened == ["1", "2"]


def test_a_missing_file_of_the_current_version_is_an_error(versions: VersionedFolder) -> None:
    write_version(versions, "one")
    (versions.path / "1" / "text").unlink()
    with pytest.raises(FileNotFoundError, match="text"):
        versions.open(read_text)


def test_a_dead_writer_leaves_the_version_and_its_partial_work(versions: VersionedFolder) -> None:
    write_version(versions, "one")
    with versions.lock():
        (versions.create_new() / "text").write_text("half")
        versions.partial.mkdir()
    assert versions.open(read_text) == "one"
    with versions.lock():
        names = sorted(path.name for path in versions.path.iterdir())
    assert names == ["1", "CURRENT", "partial"]


def test_two_writers_exclude_each_other(versions: VersionedFolder) -> None:
    with versions.lock(), pytest.raises(TimeoutError), versions.lock():
        pass
    with versions.lock():
        versions.path.mkdir()
        versions.remove()
    assert not versions.path.exists()
