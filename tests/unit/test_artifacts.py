"""Named folders: what is shipped, what a person made, and what stays when a disk is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatlm import Artifacts, ChatlmError, UsageError


@pytest.fixture
def recipes(home: Path, tmp_path: Path) -> Artifacts:
    for name in ("soup", "bread", "No Name"):
        (tmp_path / "shipped" / name).mkdir(parents=True)
    return Artifacts("artwork", "chatlm art", tmp_path / "shipped", reserved={"off"})


def make(recipes: Artifacts, name: str) -> None:
    with recipes.create(recipes.new(name)) as folder:
        (folder / "text").write_text(name)


def test_own_ones_win_by_name_and_can_be_removed(recipes: Artifacts, home: Path) -> None:
    make(recipes, "soup")
    make(recipes, "cake")
    assert [(each.name, each.user_owned) for each in recipes.all()] == [
        ("bread", False),
        ("cake", True),
        ("soup", True),
    ]
    assert recipes.get("cake").path == home / "artworks" / "cake"
    assert recipes.get("cake").size_bytes == 4
    recipes.get("soup").remove()
    assert not recipes.get("soup").user_owned, "the shipped one is there again"
    with pytest.raises(UsageError, match="The artwork soup comes with chatlm"):
        recipes.get("soup").remove()
    assert [path.name for path in (home / "artworks").iterdir()] == ["cake"]


def test_names(recipes: Artifacts) -> None:
    make(recipes, "cake")
    for name in ("off", "a b", "../x", "", "A", "a" * 65, "-a"):
        with pytest.raises(UsageError, match="An artwork cannot be called"):
            recipes.new(name)
    with pytest.raises(UsageError, match="There is an artwork cake already") as taken:
        recipes.new("cake")
    assert taken.value.hint == "Choose another name, or remove it: chatlm art remove cake"
    assert recipes.new("soup").user_owned, "a name of what is shipped is free"
    with pytest.raises(UsageError, match="There is no artwork 'brad'") as near:
        recipes.get("brad")
    assert near.value.hint == "Did you mean bread?"
    with pytest.raises(UsageError) as none:
        recipes.get("zzz")
    assert none.value.hint == "See them: chatlm art list"


def test_nothing_stays_of_what_failed(recipes: Artifacts, home: Path) -> None:
    with pytest.raises(RuntimeError), recipes.create(recipes.new("cake")) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list((home / "artworks").iterdir()) == []
    full = pytest.raises(ChatlmError, match="Artworks cannot be written")
    with full as told, recipes.create(recipes.new("cake")):
        raise OSError(28, "No space left on device")
    assert told.value.message.endswith("No space left on device.")
    assert list((home / "artworks").iterdir()) == []
