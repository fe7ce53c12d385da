"""The card that asks for one line of text."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input

from chatlm.errors import StoreError
from chatlm.tui.screens.dialogs import PromptScreen
from chatlm.tui.widgets.hints import Hints
from tests.tui.composing import burst
from tests.tui.support import everything_drawn, hostile_texts, until

SIZE = (80, 24)


class Asking(App[None]):
    """An app that has opened the screen; `answers` has the results."""

    def __init__(self, prompt: PromptScreen) -> None:
        super().__init__()
        self.answers: list[str | None] = []
        self._prompt = prompt

    def on_mount(self) -> None:
        self.push_screen(self._prompt, self.answers.append)


def line(pilot: Pilot[None]) -> Input:
    return pilot.app.screen.query_one(Input)


async def test_it_shows_what_it_is_for_and_its_keys() -> None:
    app = Asking(PromptScreen("Export [b]this", "chat.md", hint="The ending [i] decides."))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "enter accept" in everything_drawn(pilot))
        for text in ("chat.md", "The ending [i] decides.", "esc leave"):
            assert text in everything_drawn(pilot)
        assert "suggest" not in str(app.screen.query_one(Hints).content)
        assert app.focused is line(pilot)


async def test_typing_replaces_the_start_text_and_enter_accepts() -> None:
    app = Asking(PromptScreen("Title", "Old"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press(*"New", "enter")
        await pilot.pause()
        assert app.answers == ["New"]


@pytest.mark.parametrize("last, answer", [("enter", "Newest"), ("escape", None)])
async def test_keys_that_come_all_at_once_count_in_their_order(
    last: str, answer: str | None
) -> None:
    app = Asking(PromptScreen("Title", "Old"))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.focused, Input))
        burst(pilot, *"Newest", last, *"more", last)
        await until(pilot, lambda: app.answers)
        await pilot.pause()
        assert app.answers == [answer]


async def test_escape_leaves() -> None:
    app = Asking(PromptScreen("Title", "Old"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("x", "escape")
        await pilot.pause()
        assert app.answers == [None]


async def test_the_keys_can_be_clicked() -> None:
    app = Asking(PromptScreen("Title", "Old"))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "enter accept" in str(app.screen.query_one(Hints).content))
        await pilot.click(Hints, offset=(2, 0))
        await until(pilot, lambda: app.answers == ["Old"])


async def test_an_empty_line_shows_the_placeholder_and_comes_back_empty() -> None:
    app = Asking(PromptScreen("Title", "", placeholder="Your title"))
    async with app.run_test(size=SIZE) as pilot:
        assert "Your title" in everything_drawn(pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert app.answers == [""]


async def test_a_suggestion_comes_from_a_thread_and_can_be_changed() -> None:
    threads: list[threading.Thread] = []

    def suggest() -> str:
        threads.append(threading.current_thread())
        return "Roses"

    app = Asking(PromptScreen("Title", "Old", suggest=suggest))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("tab")
        await until(pilot, lambda: line(pilot).value == "Roses")
        await pilot.press("!", "enter")
        await pilot.pause()
        assert app.answers == ["Roses!"]
        assert threads[0] is not threading.main_thread()


async def test_a_suggestion_that_fails_is_reported() -> None:
    def suggest() -> str:
        raise StoreError("The disk failed.", hint="Check it.")

    app = Asking(PromptScreen("Title", "Old", suggest=suggest))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("tab")
        await until(pilot, lambda: "The disk failed." in everything_drawn(pilot))
        await pilot.press("enter")
        await pilot.pause()
        assert app.answers == ["Old"]


@pytest.mark.parametrize("size", [(80, 24), (40, 10)])
async def test_hostile_texts_are_shown_and_come_back_as_they_were(
    shared_data: Path, size: tuple[int, int]
) -> None:
    texts = hostile_texts(shared_data)[:: 80 if size[0] < 80 else 40]
    texts += ["\x1b[31mred\x1b]0;title\x07", "a\nb\tc", "\u202egnp.exe", "[b]bold[/b] [@click=x]y"]
    app = Asking(PromptScreen("Title"))
    async with app.run_test(size=size) as pilot:
        app.pop_screen()
        for text in texts:
            app.push_screen(PromptScreen("Title", text, hint=text[:200]), app.answers.append)
            await until(pilot, lambda: isinstance(app.screen, PromptScreen))
            shown = everything_drawn(pilot)
            assert not set(shown) & set("\x1b\x07\u202e\x9b")
            await pilot.press("enter")
            await until(pilot, lambda: not isinstance(app.screen, PromptScreen))
        assert app.answers == texts


async def test_a_pasted_text_is_made_visible() -> None:
    app = Asking(PromptScreen("Title"))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, PromptScreen))
        line(pilot).insert("\x1b[2Jgone\u202e", 0)
        await pilot.press("enter")
        await pilot.pause()
        assert app.answers == ["␛[2Jgone⟨U+202E⟩"]
