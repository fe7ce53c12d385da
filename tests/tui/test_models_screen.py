"""The model screen returns a name, and shows the size before anything is downloaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from chatlm.errors import ModelError
from chatlm.hub.installed import ModelDetails
from chatlm.tui.screens.models import ModelScreen
from tests.tui.cards import CardApp, SnapCompare, both_sizes, hint, still
from tests.tui.support import hostile_texts, plain, until


def details(name: str, about: str, size: int, *, here: bool) -> ModelDetails:
    folder = Path("models") / name if here else None
    return ModelDetails(
        name, "chat", about, "Apache-2.0", 8192, here, folder, size, "hub", None, None, ()
    )


MODELS = (
    details(
        "smollm2-135m-instruct", "Small and quick chat model in English.", 274_000_000, here=True
    ),
    details("qwen3-0.6b", "Knows more, and many languages.", 1_200_000_000, here=False),
    details("tuned", "", 200_000, here=True),
)


class Asked:
    """Says which names are installed, and records the names it was asked for."""

    def __init__(self, *here: str) -> None:
        self.here = here
        self.names: list[str] = []

    def __call__(self, name: str) -> bool:
        self.names.append(name)
        if name == "nosuch":
            raise ModelError("There is no model called 'nosuch'.", "Did you mean tuned?")
        return name in self.here


def app(*here: str, theme: str = "textual-dark") -> CardApp:
    return CardApp(ModelScreen(MODELS, "smollm2-135m-instruct", Asked(*here)), theme)


def rows(pilot: Pilot[None]) -> list[str]:
    return [str(option.prompt) for option in pilot.app.screen.query_one(OptionList).options]


async def test_all_are_listed_with_size_and_whether_they_are_here() -> None:
    async with app().run_test() as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 3)
        small, big, tuned = rows(pilot)
        assert small.split()[:5] == ["smollm2-135m-instruct", "274.0", "MB", "in", "use"]
        assert "Small and quick" in small
        assert big.split()[:5] == ["qwen3-0.6b", "1.2", "GB", "not", "here"]
        assert tuned.split() == ["tuned", "200.0", "kB", "here"]
        assert hint(pilot) == "enter use model · esc close"


async def test_what_cannot_chat_is_no_choice() -> None:
    embedder = dataclasses.replace(details("minilm", "", 90, here=True), kind="embedder")
    async with CardApp(ModelScreen((embedder, *MODELS), "tuned", Asked())).run_test() as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 3)
        assert "minilm" not in "".join(rows(pilot))


async def test_typing_filters_name_and_description() -> None:
    async with app().run_test() as pilot:
        await pilot.press(*"languages")
        await until(pilot, lambda: len(rows(pilot)) == 2)
        assert rows(pilot)[0].startswith("qwen3-0.6b")
        assert rows(pilot)[1] == "Use “languages”"
        await pilot.press(*["backspace"] * 9, *"tun")
        await until(pilot, lambda: rows(pilot)[0].startswith("tuned"))


@pytest.mark.parametrize("way", ["enter", "click"])
async def test_a_model_that_is_here_is_taken_at_once(way: str) -> None:
    host = app()
    async with host.run_test() as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 3)
        if way == "enter":
            await pilot.press("down", "down", "enter")
        else:
            await pilot.click(OptionList, offset=(3, 2))
        await until(pilot, lambda: host.given == ["tuned"])


async def test_one_that_is_not_here_says_its_size_first() -> None:
    host = app()
    async with host.run_test() as pilot:
        await pilot.press("down", "enter")
        asked = "qwen3-0.6b is not on this machine. About 1.2 GB to download."
        await until(pilot, lambda: asked in plain(host.screen))
        assert host.given == []
        await pilot.press("enter")
        await until(pilot, lambda: host.given == ["qwen3-0.6b"])


@pytest.mark.parametrize("key", ["escape", "down", "x"])
async def test_the_question_can_be_taken_back(key: str) -> None:
    host = app()
    async with host.run_test() as pilot:
        await pilot.press("down", "enter")
        await until(pilot, lambda: "to download" in plain(host.screen))
        await pilot.press(key)
        await until(pilot, lambda: "to download" not in plain(host.screen))
        assert host.given == []


async def test_any_other_model_can_be_typed() -> None:
    """One that is here is taken; another asks, though its size is not known."""
    host = app("org/here")
    async with host.run_test() as pilot:
        await pilot.press(*"org/there", "enter")
        await until(pilot, lambda: "org/there is not on this machine." in plain(host.screen))
        await pilot.press("escape", *["backspace"] * 5, *"here", "enter")
        await until(pilot, lambda: host.given == ["org/here"])


async def test_a_model_that_does_not_exist_says_so() -> None:
    host = app()
    async with host.run_test() as pilot:
        await pilot.press(*"nosuch", "enter")
        await until(pilot, lambda: "Did you mean tuned?" in plain(host.screen))
        await pilot.press("backspace")
        await until(pilot, lambda: "Did you mean" not in plain(host.screen))
        await pilot.press("escape")
        await until(pilot, lambda: host.given == [None])


async def test_hostile_names_are_drawn_on_one_line(shared_data: Path) -> None:
    texts = dict.fromkeys(text for text in hostile_texts(shared_data) if text.strip())
    models = [details(text, text, 1, here=True) for text in texts]
    async with CardApp(ModelScreen(models, "", Asked())).run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == len(models))
        for line in rows(pilot):
            assert not any(ord(c) < 32 or c in "\u202e\x9b" for c in line)


@both_sizes
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_picture(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    """Name, size, whether it is installed, description."""

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(rows(pilot)) == 3)

    assert snap_compare(app(theme=theme), terminal_size=size, run_before=still(steps))


@both_sizes
def test_picture_of_the_question(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """How much has to be fetched."""

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("down", "enter")

    assert snap_compare(app(), terminal_size=size, run_before=still(steps))
