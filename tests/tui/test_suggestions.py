"""Suggestions of plugins in the composer: dimmed text after the cursor, which a key inserts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button

from chatlm import Conversation, hookimpl
from chatlm.testing import scripted_screen
from chatlm.tui.composer import suggestion_line
from chatlm.tui.composer.suggestions import fit_suggestion
from tests.tui.composing import ComposerApp, type_keys, whole
from tests.tui.support import hostile_texts, until
from tests.waiting import PATIENCE

ANSWERS = {"Kind reg": "ards", "Kind regards": ", Ada", "Dear": " Sir"}


class Suggester:
    """Suggests from a table; keeps what it was asked, in which thread, and what was shown.

    Args:
        answers: suggestions by text.
        blocks_on: texts for which it answers only after `release`.
    """

    def __init__(
        self, answers: Mapping[str, str] = ANSWERS, blocks_on: tuple[str, ...] = ()
    ) -> None:
        self.answers = answers
        self.blocks_on = blocks_on
        self.asked: list[str] = []
        self.threads: list[threading.Thread] = []
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def __call__(self, text: str) -> str:
        self.asked.append(text)
        self.threads.append(threading.current_thread())
        if text in self.blocks_on:
            assert self._released.wait(PATIENCE)
        return self.answers.get(text, "")


def app_with(folder: Path, suggest: Callable[[str], str]) -> ComposerApp:
    return ComposerApp(folder, suggest=suggest)


async def suggested(pilot: Pilot[None], app: ComposerApp, text: str) -> None:
    """Wait for a suggestion."""
    await until(pilot, lambda: app.composer.suggestion == text)


def watch(app: ComposerApp) -> list[str]:
    """Return a list that every suggestion is added to as it is shown."""
    shown: list[str] = []

    def note(text: str) -> None:
        shown.append(text)

    app.watch(app.composer, "suggestion", note, init=False)
    return shown


async def test_a_suggestion_is_shown_after_the_cursor_and_tab_inserts_it(tmp_path: Path) -> None:
    app = app_with(tmp_path, Suggester())
    async with app.run_test() as pilot:
        await type_keys(pilot, "Kind reg")
        await suggested(pilot, app, "ards")
        assert "Kind regards" in whole(app)
        hints = "tab accept · → accept a word"
        assert (app.composer.text, app.subtitle) == ("Kind reg", hints)
        await pilot.press("tab")
        assert app.composer.text == "Kind regards"
        assert app.composer.cursor_location == (0, len("Kind regards"))
        await suggested(pilot, app, ", Ada")
        await pilot.press("ctrl+z")
        assert app.composer.text == "Kind reg", "undo removes what was inserted, and only that"
        await pilot.press("enter")
        assert app.sent == ["Kind reg"]


async def test_the_right_arrow_inserts_a_word_and_the_rest_stays(tmp_path: Path) -> None:
    app = app_with(tmp_path, Suggester({"Kind": " regards, Ada  Lovelace"}))
    async with app.run_test() as pilot:
        await type_keys(pilot, "Kind")
        await suggested(pilot, app, " regards, Ada  Lovelace")
        for text in (" regards,", " Ada", "  Lovelace"):
            before = app.composer.text
            await pilot.press("right")
            assert app.composer.text == before + text
        await pilot.press("right", "right")
        assert app.composer.text == "Kind regards, Ada  Lovelace"
        await pilot.press("ctrl+z")
        assert app.composer.text == "Kind regards, Ada", "undo removes one word"


async def test_what_is_asked_is_the_text_that_would_be_sent(tmp_path: Path) -> None:
    suggest = Suggester()
    app = app_with(tmp_path, suggest)
    async with app.run_test() as pilot:
        app.composer.paste("line\n" * 20)
        await type_keys(pilot, "end")
        await until(pilot, lambda: suggest.asked)
        assert suggest.asked[-1] == "line\n" * 20 + "end"
        assert threading.main_thread() not in suggest.threads
        assert all(thread.daemon for thread in suggest.threads), "one would prevent quitting"


async def test_nothing_is_asked_about_a_blank_text(tmp_path: Path) -> None:
    suggest = Suggester()
    app = app_with(tmp_path, suggest)
    async with app.run_test() as pilot:
        await type_keys(pilot, " \n", "backspace", "backspace")
        assert not app.composer.suggesting
        await type_keys(pilot, "x")
        assert app.composer.suggesting
        await until(pilot, lambda: not app.composer.suggesting)
        assert suggest.asked == ["x"]


async def test_typing_what_is_suggested_keeps_the_rest_and_anything_else_drops_it(
    tmp_path: Path,
) -> None:
    suggest = Suggester()
    app = app_with(tmp_path, suggest)
    async with app.run_test() as pilot:
        await type_keys(pilot, "Kind reg")
        await suggested(pilot, app, "ards")
        await pilot.press("a")
        assert app.composer.suggestion == "rds"
        await pilot.press("backspace")
        assert app.composer.suggestion == "ards"
        await pilot.press("x")
        assert (app.composer.suggestion, app.composer.text) == ("", "Kind regx")
        await pilot.press("backspace", "backspace")
        assert (app.composer.suggestion, app.composer.text) == ("", "Kind re")
        await until(pilot, lambda: not app.composer.suggesting)
        assert suggest.asked[-1] == "Kind re"


async def test_a_pause_in_typing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggestion_line, "SUGGEST_DELAY_SECONDS", 3600)
    suggest = Suggester()
    app = app_with(tmp_path, suggest)
    async with app.run_test() as pilot:
        await type_keys(pilot, "Kind re")
        monkeypatch.setattr(suggestion_line, "SUGGEST_DELAY_SECONDS", 0.001)
        await pilot.press("g")
        await suggested(pilot, app, "ards")
        assert suggest.asked == ["Kind reg"]


async def test_while_an_answer_takes_long_typing_goes_on_and_only_the_newest_text_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggestion_line, "SUGGEST_DELAY_SECONDS", 0.001)
    suggest = Suggester({"D": "EAD", **ANSWERS}, blocks_on=("D",))
    app = app_with(tmp_path, suggest)
    async with app.run_test() as pilot:
        shown = watch(app)
        await pilot.press("D")
        await until(pilot, lambda: suggest.asked)
        for letter in "ear":
            await pilot.press(letter)
            await pilot.pause()
        assert app.composer.text == "Dear"
        assert suggest.asked == ["D"], "one question at a time"
        suggest.release()
        await suggested(pilot, app, " Sir")
        assert suggest.asked[-1] == "Dear"
        assert shown == [" Sir"], "the old answer was not shown"


async def test_a_plugin_that_never_answers_prevents_nothing(tmp_path: Path) -> None:
    suggest = Suggester(blocks_on=("Dear",))
    app = app_with(tmp_path, suggest)
    async with app.run_test() as pilot:
        await type_keys(pilot, "Dear")
        await until(pilot, lambda: suggest.asked)
        await type_keys(pilot, " Ada", "enter")
        assert app.sent == ["Dear Ada"]
        suggest.release()


async def test_an_answer_for_another_chat_is_not_shown(tmp_path: Path) -> None:
    suggest = Suggester(blocks_on=("Dear",))
    app = app_with(tmp_path, suggest)
    async with app.run_test() as pilot:
        shown = watch(app)
        await type_keys(pilot, "Dear")
        await until(pilot, lambda: suggest.asked)
        app.composer.load_draft("Dear")  # of a chat that happens to have the same draft
        await until(pilot, lambda: suggest.threads)
        suggest.release()
        await until(pilot, lambda: len(suggest.asked) == 2)
        await suggested(pilot, app, " Sir")
        assert shown == [" Sir"]


async def test_a_failing_answer_is_no_suggestion(tmp_path: Path) -> None:
    asked = []

    def suggest(text: str) -> str:
        asked.append(text)
        if len(asked) == 1:
            raise RuntimeError("broken")
        return " Sir"

    app = app_with(tmp_path, suggest)
    async with app.run_test() as pilot:
        await type_keys(pilot, "Dea")
        await until(pilot, lambda: asked and not app.composer.suggesting)
        assert app.composer.suggestion == ""
        await type_keys(pilot, "r")
        await suggested(pilot, app, " Sir")


async def test_a_suggestion_is_shown_only_at_the_end_of_the_text(tmp_path: Path) -> None:
    app = app_with(tmp_path, Suggester())
    async with app.run_test() as pilot:
        await type_keys(pilot, "Kind reg")
        await suggested(pilot, app, "ards")
        await pilot.press("left")
        assert (app.composer.suggestion, app.subtitle) == ("", "")
        await pilot.press("right")
        assert app.composer.suggestion == "ards"
        await pilot.press("shift+right")
        assert app.composer.text == "Kind reg"
        await pilot.press("shift+left")
        assert app.composer.suggestion == ""
        await pilot.press("right", "left", "tab")
        assert app.query_one(Button).has_focus
        assert app.composer.text == "Kind reg"


async def test_the_completion_list_comes_before_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    suggest = Suggester({"see": " @nowhere", "see @n": "obody"})
    app = app_with(tmp_path, suggest)
    async with app.run_test() as pilot:
        await type_keys(pilot, "see")
        await suggested(pilot, app, " @nowhere")
        await type_keys(pilot, " @n")
        assert (app.offered, app.composer.suggestion) == (["notes.txt"], "")
        await pilot.press("escape")
        assert (app.offered, app.composer.suggestion) == ([], "owhere")
        await pilot.press("backspace", "n")
        assert (app.offered, app.composer.suggestion) == (["notes.txt"], "")
        await pilot.press("tab")
        assert app.composer.text == "see @notes.txt "


async def test_a_long_suggestion_is_cut_on_the_screen_and_inserted_whole(tmp_path: Path) -> None:
    long = " word" * 40
    app = app_with(tmp_path, Suggester({"A": long}))
    async with app.run_test(size=(40, 20)) as pilot:
        await type_keys(pilot, "A")
        await until(pilot, lambda: app.composer.suggestion)
        shown = app.composer.suggestion
        assert shown.endswith("…") and long.startswith(shown[:-1])
        assert f"A{shown}" in whole(app)
        await pilot.resize_terminal(60, 20)
        await until(pilot, lambda: len(app.composer.suggestion) == len(shown) + 20)
        await pilot.press("tab")
        assert app.composer.text == f"A{long}"


async def test_a_suggestion_fits_its_row_after_the_text_is_wrapped_anew(tmp_path: Path) -> None:
    text = "some words " * 7 + "end"
    app = app_with(tmp_path, lambda _: " and so on" * 9)
    async with app.run_test(size=(40, 20)) as pilot:
        app.composer.load_draft(text)
        await until(pilot, lambda: app.composer.suggestion)
        for width in (70, 52, 40):
            before = app.composer.suggestion

            def is_refitted(old: str = before) -> bool:
                return app.composer.suggestion != old

            await pilot.resize_terminal(width, 20)
            await until(pilot, is_refitted)
            rows = [row.strip("│ ") for row in whole(app).splitlines()]
            assert f"end{app.composer.suggestion}" in "\n".join(rows)
            assert max(map(len, rows)) <= width


async def test_a_suggestion_without_room_is_not_inserted_unseen(tmp_path: Path) -> None:
    app = app_with(tmp_path, lambda text: "unseen")
    async with app.run_test(size=(40, 20)) as pilot:
        width = app.composer.wrap_width
        app.composer.text = "x" * width
        app.composer.move_cursor(app.composer.document.end)
        await pilot.pause()
        await until(pilot, lambda: not app.composer.suggesting)
        assert app.composer.suggestion == ""
        await pilot.press("right")
        assert app.composer.text == "x" * width


async def test_only_the_first_line_is_suggested(tmp_path: Path) -> None:
    app = app_with(tmp_path, Suggester({"A": " line\nand another", "B": "\nnothing to see"}))
    async with app.run_test() as pilot:
        await type_keys(pilot, "A")
        await suggested(pilot, app, " line")
        await pilot.press("tab")
        assert app.composer.text == "A line"
        app.composer.load_draft("")
        await type_keys(pilot, "B")
        await until(pilot, lambda: not app.composer.suggesting)
        assert app.composer.suggestion == ""


async def test_hostile_suggestions_are_drawn_safely(tmp_path: Path, shared_data: Path) -> None:
    texts = [text for text in hostile_texts(shared_data)[::12] if text.split("\n")[0].strip()]
    current = [""]
    app = app_with(tmp_path, lambda _: current[0])
    async with app.run_test() as pilot:
        for current[0] in [*texts, "\x1b[31mred", "\t\ttabs", "\ufdd0pasted 1: 9 lines\ufdd1"]:
            app.composer.load_draft("x")
            await pilot.pause()
            await until(pilot, lambda: not app.composer.suggesting)
            drawn = whole(app)
            assert not set(drawn) & {"\x1b", "\x9b", "\u202e", "\ufdd0", "\ufdd1"}
            await pilot.press("tab")
            assert app.composer.outgoing_message().read().text == app.composer.text


@pytest.mark.parametrize(
    ("suggestion", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("abcd", 1, ""),
        ("日本", 3, "日…"),
        ("日本", 2, " …"),
        ("a\tb", 3, "a b"),
        ("a", 0, ""),
    ],
)
def test_how_a_suggestion_is_cut(suggestion: str, width: int, shown: str) -> None:
    assert fit_suggestion(suggestion, width) == shown


# --- plugins ------------------------------------------------------------------------------


class Plugin:
    def __init__(self, suggest: Callable[[Conversation, str], Any]) -> None:
        self.suggest = suggest
        self.chats: list[Conversation] = []

    @hookimpl
    def suggest_text(self, conversation: Conversation, text: str) -> Any:
        self.chats.append(conversation)
        return self.suggest(conversation, text)


async def test_a_plugin_sees_the_open_chat() -> None:
    plugin = Plugin(lambda chat, text: f" {len(chat.turns)}")
    async with scripted_screen(plugin, replies=["Yes."]) as screen:
        await screen.press("a")
        assert "a 0" in screen.text()
        await screen.press("b", "enter")
        await screen.press("c")
        assert "c 1" in screen.text()
        await screen.press("d")
        assert plugin.chats[-1] is plugin.chats[-2], "it is read again only after a change"
        await screen.press("ctrl+n", "e")
        assert "e 0" in screen.text()
        assert screen.faults == []


async def test_a_plugin_that_fails_is_left_out_and_the_user_goes_on() -> None:
    plugin = Plugin(lambda chat, text: 1 / 0)
    async with scripted_screen(plugin, replies=["Yes."]) as screen:
        for letter in "abcde":
            await screen.press(letter)
        assert len(plugin.chats) == 3
        assert screen.faults[-1].dropped
        await screen.press("enter")
        assert [request.messages[-1].text for request in screen.requests] == ["abcde"]


async def test_tab_still_moves_between_panes_when_nothing_is_suggested() -> None:
    async with scripted_screen(Plugin(lambda chat, text: None), replies=["Yes."]) as screen:
        await screen.press("h", "i", "tab")
        composer = screen.app.chat_screen.chat.composer
        assert not composer.has_focus
        assert composer.text == "hi"
