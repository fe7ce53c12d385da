"""Typing, pasting and keys: what terminals send must arrive, in order, and collide with nothing."""

from __future__ import annotations

import re

import pytest
from textual import events
from textual.binding import Binding
from textual.widgets import OptionList, TextArea

from chatlm.engines.scripted import ScriptedEngine
from chatlm.store import Store
from chatlm.tui import keys
from chatlm.tui.help_screen import HelpScreen
from tests.tui.support import app_of, chat_of, idle, make_app, newest, plain, until

ALL = [*keys.COMPOSER, *keys.CHAT, *keys.APP]


def keys_of(bindings: object) -> set[str]:
    assert isinstance(bindings, list)
    return {
        key
        for binding in bindings
        if isinstance(binding, Binding)
        for key in binding.key.split(",")
    }


@pytest.mark.parametrize("binding", [*keys.CHAT, *keys.APP], ids=keys.name)
def test_no_key_is_taken_by_the_widgets_that_have_the_focus(binding: Binding) -> None:
    mine = set(binding.key.split(","))
    assert not mine & (keys_of(TextArea.BINDINGS) | keys_of(OptionList.BINDINGS))


@pytest.mark.parametrize("binding", ALL, ids=keys.name)
def test_ordinary_terminals_can_send_each_key(binding: Binding) -> None:
    first = binding.key.split(",")[0]
    plain_keys = {"enter", "escape", "pageup", "pagedown", "f1"}
    taken = set("bcsz")  # tmux, interrupt, flow control, suspend
    letter = re.fullmatch(r"ctrl\+([a-z])", first)
    assert first in plain_keys or (letter is not None and letter.group(1) not in taken | set("im"))


async def test_each_key_of_the_help_works_on_the_screen() -> None:
    async with make_app().run_test() as pilot:
        await pilot.pause()
        active = pilot.app.screen.active_bindings
        for binding in ALL:
            for key in binding.key.split(","):
                assert active[key].binding.action == binding.action
        await pilot.press("f1")
        card = plain(pilot.app.screen)
        for binding in ALL:
            assert re.search(rf"{re.escape(keys.name(binding))} +{binding.description}", card)
        await pilot.press("f1")
        assert not isinstance(pilot.app.screen, HelpScreen)


async def test_keys_act_in_the_order_they_were_typed() -> None:
    engine = ScriptedEngine("Hi.")
    async with make_app(engine).run_test() as pilot:
        await pilot.pause()
        typed = [*"ab", "backspace", *"cd", "ctrl+j", *"ef", "left", "g", "enter"]
        for key in typed:  # all at once, as after a moment in which the screen was busy
            pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: engine.requests)
        await idle(pilot)
        assert engine.requests[0].messages[-1].content == "acd\negf"


async def test_a_key_that_moves_the_focus_moves_it_for_the_next_key() -> None:
    store = Store(None)
    store.add_turn(store.create_conversation("Old").id, "An old question")
    async with make_app(store=store).run_test() as pilot:
        await pilot.pause()
        for key in ("ctrl+l", "enter"):
            pilot.app.post_message(events.Key(key, None))
        await until(pilot, lambda: chat_of(pilot).newest)
        assert app_of(pilot).focused is chat_of(pilot).composer


async def test_the_composer_grows_with_its_lines_to_a_limit() -> None:
    async with make_app().run_test() as pilot:
        composer = chat_of(pilot).composer
        heights = []
        for _ in range(12):
            await pilot.press("x", "ctrl+j")
            await pilot.pause()
            heights.append(composer.size.height)
        assert heights[0] == 2
        assert max(heights) == heights[-1] == 8
        assert composer.cursor_location[0] == 12


async def test_blank_text_is_not_sent() -> None:
    engine = ScriptedEngine()
    async with make_app(engine).run_test() as pilot:
        await pilot.press("space", "ctrl+j", "enter")
        await pilot.pause()
        assert engine.requests == []
        assert chat_of(pilot).composer.text == " \n"


async def test_pasted_lines_stay_together_and_show_what_they_hide() -> None:
    async with make_app().run_test() as pilot:
        await pilot.pause()
        pilot.app.post_message(events.Paste("one\r\ntwo\rthree \x1b[31m\u202e"))
        await until(pilot, lambda: chat_of(pilot).composer.text)
        assert chat_of(pilot).composer.text == "one\ntwo\nthree ␛[31m⟨U+202E⟩"


async def test_the_draft_stays_while_a_reply_streams_and_when_the_chat_changes() -> None:
    async with make_app(ScriptedEngine("word " * 30, delay=0.005)).run_test() as pilot:
        await pilot.press(*"Hello", "enter", *"next")
        await idle(pilot)
        assert "word" in plain(newest(pilot))
        assert chat_of(pilot).composer.text == "next"
        await pilot.press("ctrl+n")
        assert chat_of(pilot).composer.text == "next"


async def test_page_keys_scroll_the_transcript_from_the_composer() -> None:
    async with make_app(ScriptedEngine("line\n\n" * 40)).run_test() as pilot:
        await pilot.press(*"Hello", "enter")
        await idle(pilot)
        transcript = chat_of(pilot).query_one("#transcript")
        end = transcript.scroll_y
        await pilot.press("pageup")
        assert transcript.scroll_y < end
        assert app_of(pilot).focused is chat_of(pilot).composer
