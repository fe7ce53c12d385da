"""Typing, pasting and keys: input of terminals arrives, in order, and collides with nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from textual import events
from textual.binding import Binding
from textual.widgets import OptionList, TextArea

from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.tui import commands
from chatlm.tui.commands import Command
from chatlm.tui.screens.help import HelpScreen
from tests.tui.support import app_of, chat_of, idle, make_app, newest, plain, toasts, until

EVERYWHERE = [*commands.CHAT, *commands.APP]
KEYED = [command for command in (*commands.COMPOSER, *EVERYWHERE) if command.key]


def keys_of(bindings: object) -> set[str]:
    assert isinstance(bindings, list)
    return {
        key
        for binding in bindings
        if isinstance(binding, Binding)
        for key in binding.key.split(",")
    }


def name_of(command: Command) -> str:
    return command.name


@pytest.mark.parametrize("command", [c for c in EVERYWHERE if c.key], ids=name_of)
def test_no_key_is_taken_by_the_widgets_that_have_the_focus(command: Command) -> None:
    mine = set(command.key.split(","))
    assert not mine & (keys_of(TextArea.BINDINGS) | keys_of(OptionList.BINDINGS))


@pytest.mark.parametrize("command", KEYED, ids=name_of)
def test_ordinary_terminals_can_send_each_key(command: Command) -> None:
    first = command.key.split(",")[0]
    plain_keys = {"enter", "escape", "pageup", "pagedown", "f1", "f2", "f3"}
    taken = set("bcz")  # tmux, interrupt, suspend
    letter = re.fullmatch(r"ctrl\+([a-z])", first)
    assert first in plain_keys or (letter is not None and letter.group(1) not in taken | set("im"))


async def test_each_key_of_the_help_works_on_the_screen() -> None:
    async with make_app().run_test(size=(100, 80)) as pilot:
        await pilot.pause()
        active = pilot.app.screen.active_bindings
        for command in KEYED:
            for key in command.key.split(","):
                assert active[key].binding.id == command.name
        await pilot.press("f1")
        card = plain(pilot.app.screen)
        for command in commands.ALL.values():
            key, typed = (
                commands.key_name(command.key),
                f"/{command.name}" * command.is_slash_command,
            )
            words = rf"{re.escape(key)} *{re.escape(typed)}.* +{re.escape(command.help)}"
            assert re.search(words, card), command.name
        await pilot.press("f1")
        assert not isinstance(pilot.app.screen, HelpScreen)


def test_every_command_has_a_documented_handler() -> None:
    """A key, a slash command and a palette entry all run it."""
    handlers = make_app().chat_screen.command_handlers
    named = {command.name for command in (*commands.CHAT, *commands.APP, *commands.TURN)}
    assert set(handlers) == named
    for name, handler in handlers.items():
        assert (handler.__doc__ or "").strip(), name


async def test_the_user_can_choose_keys() -> None:
    engine = ScriptedEngine("One.", "Two.")
    app = make_app(engine, keys={"regenerate": "ctrl+y", "send": "ctrl+o", "settings": "ctrl+e"})
    async with app.run_test() as pilot:
        await pilot.press(*"Hi", "enter", "ctrl+o")
        await until(pilot, lambda: len(engine.requests) == 1)
        await idle(pilot)
        await pilot.press("ctrl+y")
        await until(pilot, lambda: len(engine.requests) == 2)
        await idle(pilot)
        await pilot.press("ctrl+r")
        await pilot.pause()
        assert len(engine.requests) == 2
        assert engine.requests[0].messages[-1].text.startswith("Hi")


@pytest.mark.parametrize(
    ("name", "key", "complaint"),
    [
        ("regenerat", "ctrl+y", "Did you mean regenerate?"),
        ("regenerate", "ctrl+g", "ctrl+g is the key for continue"),
        ("copy", "e", "e is the key for edit"),
    ],
)
async def test_a_key_that_cannot_be_chosen_is_reported(name: str, key: str, complaint: str) -> None:
    async with make_app(keys={name: key}).run_test() as pilot:
        await pilot.pause()
        assert any(complaint in toast for toast in toasts(pilot))
        assert commands.ALL["regenerate"].key == "ctrl+r"


def test_two_commands_can_swap_their_keys() -> None:
    assert commands.assign_keys({"regenerate": "ctrl+g", "continue": "ctrl+r"}) == []
    assert commands.key_of("continue") == "ctrl+r"
    assert commands.assign_keys({}) == []
    assert commands.key_of("continue") == "ctrl+g"


async def test_keys_act_in_the_order_they_were_typed() -> None:
    engine = ScriptedEngine("Hi.")
    async with make_app(engine).run_test() as pilot:
        await pilot.pause()
        typed = [*"ab", "backspace", *"cd", "ctrl+j", *"ef", "left", "g", "enter"]
        for key in typed:  # all at once, as after a moment in which the screen was busy
            pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: engine.requests)
        await idle(pilot)
        assert engine.requests[0].messages[-1].text == "acd\negf"


async def test_a_key_that_moves_the_focus_moves_it_for_the_next_key() -> None:
    store = Store(None)
    store.add_turn(store.create_conversation("Old").id, "An old question")
    async with make_app(store=store).run_test() as pilot:
        await pilot.pause()
        for key in ("ctrl+l", "enter"):
            pilot.app.post_message(events.Key(key, None))
        await until(pilot, lambda: chat_of(pilot).view.newest_view)
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


async def test_the_draft_stays_while_a_reply_streams_and_waits_for_its_chat() -> None:
    async with make_app(ScriptedEngine("word " * 30, delay=0.005)).run_test() as pilot:
        chat = chat_of(pilot)
        await pilot.press(*"Hello", "enter", *"next")
        await idle(pilot)
        assert "word" in plain(newest(pilot))
        assert chat.composer.text == "next"
        answered = chat.saved_conversation_id
        assert answered is not None
        await pilot.press("ctrl+n")
        assert chat.composer.text == ""
        await chat.switch.open_chat(answered)
        assert chat.composer.text == "next"


async def test_two_messages_typed_at_once_are_not_lost() -> None:
    engine = ScriptedEngine("Hi.")
    async with make_app(engine).run_test() as pilot:
        await pilot.pause()
        for key in [*"one", "enter", *"two", "enter"]:
            pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: engine.requests)
        await idle(pilot)
        assert engine.requests[0].messages[-1].text == "one"
        assert chat_of(pilot).composer.text == "two"


async def test_up_brings_back_what_was_sent() -> None:
    async with make_app(ScriptedEngine("Hi.")).run_test() as pilot:
        for text in ("one", "two"):
            await pilot.press(*text, "enter")
            await idle(pilot)
        await pilot.press(*"three", "up", "up")
        assert chat_of(pilot).composer.text == "one"
        await pilot.press("down", "down")
        assert chat_of(pilot).composer.text == "three"


async def test_an_attached_file_reaches_the_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("The answer is 42.\n")
    engine = ScriptedEngine("Hi.")
    async with make_app(engine).run_test() as pilot:
        composer = chat_of(pilot).composer
        await pilot.press(*f"/attach {tmp_path}/no", "tab", "enter")
        await until(pilot, lambda: "tokens" in (composer.border_subtitle or ""))
        await pilot.press(*"?", "enter")
        await until(pilot, lambda: engine.requests)
        await idle(pilot)
        sent = engine.requests[0].messages[-1].text
        assert sent.endswith("notes.txt\n```\nThe answer is 42.\n```")
        assert composer.text == ""


async def test_page_keys_scroll_the_transcript_from_the_composer() -> None:
    async with make_app(ScriptedEngine("line\n\n" * 40)).run_test() as pilot:
        await pilot.press(*"Hello", "enter")
        await idle(pilot)
        transcript = chat_of(pilot).view.query_one("#transcript")
        end = transcript.scroll_y
        await pilot.press("pageup")
        assert transcript.scroll_y < end
        assert app_of(pilot).focused is chat_of(pilot).composer
