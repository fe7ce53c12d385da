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
    with recipes.making(recipes.free(name)) as folder:
        (folder / "text").write_text(name)


def test_own_ones_win_by_name_and_can_be_removed(recipes: Artifacts, home: Path) -> None:
    make(recipes, "soup")
    make(recipes, "cake")
    assert [(each.name, each.own) for each in recipes.all()] == [
        ("bread", False),
        ("cake", True),
        ("soup", True),
    ]
    assert recipes.located("cake").path == home / "artworks" / "cake"
    assert recipes.located("cake").bytes == 4
    recipes.located("soup").remove()
    assert not recipes.located("soup").own, "the shipped one is there again"
    with pytest.raises(UsageError, match="The artwork soup comes with chatlm"):
        recipes.located("soup").remove()
    assert [path.name for path in (home / "artworks").iterdir()] == ["cake"]


def test_names(recipes: Artifacts) -> None:
    make(recipes, "cake")
    for name in ("off", "a b", "../x", "", "A", "a" * 65, "-a"):
        with pytest.raises(UsageError, match="An artwork cannot be called"):
            recipes.free(name)
    with pytest.raises(UsageError, match="There is an artwork cake already") as taken:
        recipes.free("cake")
    assert taken.value.hint == "Choose another name, or remove it: chatlm art remove cake"
    assert recipes.free("soup").own, "a name of what is shipped is free"
    with pytest.raises(UsageError, match="There is no artwork 'brad'") as near:
        recipes.located("brad")
    assert near.value.hint == "Did you mean bread?"
    with pytest.raises(UsageError) as none:
        recipes.located("zzz")
    assert none.value.hint == "See them: chatlm art list"


def test_nothing_stays_of_what_failed(recipes: Artifacts, home: Path) -> None:
    with pytest.raises(RuntimeError), recipes.making(recipes.free("cake")) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list((home / "artworks").iterdir()) == []
    full = pytest.raises(ChatlmError, match="Artworks cannot be written")
    with full as told, recipes.making(recipes.free("cake")):
        raise OSError(28, "No space left on device")
    assert told.value.message.endswith("No space left on device.")
    assert list((home / "artworks").iterdir()) == []
