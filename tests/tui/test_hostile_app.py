"""Texts made to break programs, through the whole program: drawn harmlessly, stored unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ModelError
from chatlm.store.store import Store
from chatlm.text import escape_controls
from chatlm.tui import commands
from chatlm.tui.chat.transcript import Transcript
from chatlm.tui.chat_list.chat_list import ChatList
from chatlm.tui.composer.drafts import sanitise
from chatlm.tui.screens.transfer import ImportScreen
from tests.tui.support import (
    app_of,
    chat_of,
    hostile_texts,
    idle,
    make_app,
    newest,
    plain,
    say,
    screen_strips,
    toasts,
    until,
)

ESCAPES = (
    "\x1b]52;c;cHduZWQ=\x07",  # sets the clipboard
    "\x1b]0;pwned\x07\x1b]2;pwned\x1b\\",  # names the window
    "\x1b[2J\x1b[H\x1b[31mred\x9b2J",  # clears the screen, with either kind of CSI
    "\x1bPq#0;2;0;0;0\x1b\\ \x90q\x9c",  # a picture
    "\x1b]8;;javascript:alert(1)\x07click\x1b]8;;\x07",
    "before\x1b[201~/quit\r\x1b[200~after",  # ends a bracketed paste
    "\x1b[6n\x1b[c\x1b[?1049l\x05\x08\x08\x08\x7f",  # asks the terminal, which would answer
    "one\rtwo\r\nthree\x0b\x0c\x85\u2028four\x00",
    "\u202eevil\u2066\u200f \ufeff \U000e0041",
)
MARKUP = (
    "[@click=app.quit]press[/] [@click=screen.command('delete')]me[/]",
    "[/] [/bold] [bold [red]] [$primary on $error] \\[b]",
    "[link=file:///etc/passwd]x[/link] [on red]          [/]",
    "<a href='javascript:alert(1)'>x</a> [x](javascript:alert(1)) [y](file:///etc/passwd)",
    "[z](https://example.com/'+app.quit()+' \"t\") ![i](https://example.com/i.png)",
    "{{ 7*7 }} ${HOME} $(reboot) `reboot` %s %n \\x1b[2J /quit @/no/such/file",
)
COMBINING = "Z\u0335\u0321" * 40 + "a" + "\u0301" * 500
WIDE = "👩‍👩‍👧‍👦" * 50 + "漢" * 200 + "\ufdd0pasted 1: 3 lines\ufdd1"

OUR_ACTION = re.compile(
    r"screen\.(command|reset)\('[a-z_-]+'\)|app\.simulate_key\('[a-z0-9_+]+'\)|copy_code|link\(['\"]https?://.*\)",
    re.DOTALL,
)
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def texts(shared_data: Path, request: pytest.FixtureRequest) -> list[str]:
    """Every text once; the slow checks take them all."""
    ours = [*ESCAPES, *MARKUP, COMBINING, WIDE]
    every = [text for text in dict.fromkeys([*ours, *hostile_texts(shared_data)]) if text.strip()]
    return every if request.param == "all" else some(every)


def some(texts: list[str]) -> list[str]:
    """Our own texts, the forged control tokens at the end, and a part of those between."""
    return [*texts[:17], *texts[17:-12:50], *texts[-12:]]


async def check(pilot: Pilot[None]) -> None:
    """Check that nothing on the screen controls the terminal or chatlm."""
    await pilot.pause()
    size, strips = pilot.app.screen.size, screen_strips(pilot)
    assert [strip.cell_length for strip in strips] == [size.width] * size.height
    for segment in (segment for strip in strips for segment in strip):
        assert not UNSAFE.search(segment.text), repr(segment.text)
        if segment.style is not None:
            assert segment.style.link is None
            action = segment.style.meta.get("@click", "link('https://example.com')")
            assert OUR_ACTION.fullmatch(str(action)), action


def is_shown(text: str, pilot: Pilot[None]) -> bool:
    """Whether a text is on the screen, however its lines are wrapped."""
    return joined(text) in joined("".join(strip.text for strip in screen_strips(pilot)))


def joined(text: str) -> str:
    """Drop blanks, since lines are wrapped, and what is drawn beside them: a bar, a scrollbar."""
    return re.sub(r"[\s▁-█▌]+", "", text)


def as_utf8(text: str) -> str:
    """The text as UTF-8 can hold it."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
async def test_as_messages_and_replies_of_real_turns(
    texts: list[str], size: tuple[int, int]
) -> None:
    store, engine = Store(None), ScriptedEngine(context=1_000_000)
    async with make_app(engine, store).run_test(size=size) as pilot:
        for number, text in enumerate(texts if size == (80, 24) else some(texts)):
            if number % 8 == 0:
                await pilot.press("ctrl+n")
            engine.queue(text)
            await say(pilot, f" {text}")  # a blank before, so that none is a command
            await idle(pilot)
            await check(pilot)
            view = newest(pilot)
            assert view.turn.reply is not None, toasts(pilot)
            asked, said = view.turn.user.text, view.turn.reply.text
            assert asked == engine.requests[-1].messages[-1].text
            assert asked.startswith(f" {sanitise(as_utf8(text))}")  # files it names follow it
            assert said == as_utf8(text)
            if len(escape_controls(asked)) < 300 and size == (80, 24):
                await until(pilot, partial(is_shown, escape_controls(asked), pilot))
                await check(pilot)
            view.copy_reply()
            assert pilot.app.clipboard == said
            pilot.app.clear_notifications()
        assert len(engine.requests) == number + 1


async def test_as_titles(texts: list[str]) -> None:
    store = Store(None)
    ids = [store.create_conversation(title=text).id for text in texts]
    for conversation_id, text in zip(ids, texts, strict=True):
        store.add_turn(conversation_id, text)
    async with make_app(store=store).run_test(size=(120, 30)) as pilot:
        await pilot.press("ctrl+l", "end")
        listed = app_of(pilot).chat_screen.query_one(ChatList)
        assert len(listed.options) == len(ids) + 1, "one heading"
        while listed.scroll_y > 0:
            await check(pilot)
            await pilot.press("pageup")
        for conversation_id, text in list(zip(ids, texts, strict=True))[::7]:
            await chat_of(pilot).switch.open_chat(conversation_id)
            await check(pilot)
            assert store.conversation(conversation_id).title == as_utf8(text)
        for text in some(texts)[::2]:
            words = text.split()[0][:20]
            await app_of(pilot).chat_screen.action_command("search", words)
            await pilot.pause(0.05)
            await check(pilot)
            await pilot.press("escape")
        for conversation_id, text in list(zip(ids, texts, strict=True))[:17]:
            await chat_of(pilot).switch.open_chat(conversation_id)
            await app_of(pilot).chat_screen.action_command("rename")
            await check(pilot)
            await pilot.press("enter")
            await app_of(pilot).chat_screen.action_command("delete")
            await check(pilot)
            await app_of(pilot).chat_screen.action_command("undo")
            await check(pilot)
            assert store.conversation(conversation_id).title == as_utf8(text)


async def test_as_names_and_contents_of_files(texts: list[str], tmp_path: Path) -> None:
    store, engine = Store(None), ScriptedEngine(context=1_000_000)
    async with make_app(engine, store).run_test(size=(80, 24)) as pilot:
        for number, text in enumerate(some(texts)):
            content = as_utf8(text).replace("\0", "")
            name = as_utf8(re.sub(r"[/\0]", "_", text)).encode()[:60].decode("utf-8", "ignore")
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / f"{name}.txt").write_text(content, encoding="utf-8", newline="")
            await pilot.press("ctrl+n")
            await app_of(pilot).chat_screen.action_command("attach", f"{folder}/{name}.txt")
            await check(pilot)
            assert not toasts(pilot)
            await pilot.press("enter")
            await idle(pilot)
            await check(pilot)
            asked = newest(pilot).turn.user.text
            plain_ends = content.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
            assert plain_ends.removesuffix("\n") in asked
            assert asked == engine.requests[-1].messages[-1].text


async def test_as_pasted_blocks(texts: list[str]) -> None:
    store, engine = Store(None), ScriptedEngine(context=10_000_000)
    async with make_app(engine, store).run_test(size=(80, 24)) as pilot:
        for number, once in enumerate(some(texts)):
            text = "\n".join([once] * 13) if number % 2 else once
            await pilot.press("ctrl+n")
            pilot.app.post_message(events.Paste(f" {text}"))
            await check(pilot)
            await pilot.press("enter")
            await idle(pilot)
            await check(pilot)
            plain_ends = as_utf8(text).replace("\r\n", "\n").replace("\r", "\n")
            assert engine.requests[-1].messages[-1].text.startswith(f" {sanitise(plain_ends)}")


async def test_as_system_prompts(texts: list[str]) -> None:
    store = Store(None)
    thorough = len(texts) > 100  # the slow checks open every card for each text
    async with make_app(ScriptedEngine(context=1_000_000), store).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        for number, text in enumerate(some(texts)[::2]):
            chat_of(pilot).edits.set_system(text)
            cards = ("system", "context", "preview")
            for command in cards if thorough else (cards[number % 3],):
                await app_of(pilot).chat_screen.action_command(command, "x")
                await pilot.pause()
                await check(pilot)
                await pilot.press("escape")
                await pilot.pause()
                assert pilot.app.screen is app_of(pilot).chat_screen
            assert store.conversation(1).system == as_utf8(text)


async def test_as_imported_chats(texts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    rows = [
        {
            "messages": [
                {"role": "system", "content": text},
                {"role": "user", "content": text},
                {"role": "assistant", "content": text},
            ]
        }
        for text in texts
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    store = Store(None)
    async with make_app(store=store).run_test(size=(120, 30)) as pilot:
        await app_of(pilot).chat_screen.action_command("import", str(file))
        await until(pilot, lambda: f"{len(texts)} chats imported" in plain(pilot.app.screen))
        assert isinstance(pilot.app.screen, ImportScreen)
        await check(pilot)
        await pilot.press("escape")
        chats = {
            chat.turns[0].user.text: chat
            for chat in map(store.conversation, (chat.id for chat in store.list_conversations()))
        }
        for text in some(texts):
            chat = chats[as_utf8(text)]
            assert chat.system == as_utf8(text)
            assert chat.turns[0].reply is not None
            assert chat.turns[0].reply.text == as_utf8(text)
            await chat_of(pilot).switch.open_chat(chat.id)
            await check(pilot)
            await app_of(pilot).chat_screen.action_command("copy-chat")
            assert joined(as_utf8(text)) in joined(pilot.app.clipboard)


async def test_as_names_of_models_and_adapters(texts: list[str]) -> None:
    store = Store(None)
    chat = store.create_conversation()
    for text in some(texts):
        turn = store.add_turn(chat.id, "Hello")
        reply = store.start_reply(turn.id, model=text, adapter=text, settings=json.dumps(text))
        store.journal_reply(reply.id, "Hi.")
    async with make_app(store=store, conversation_id=chat.id).run_test() as pilot:
        await idle(pilot)
        for turn in store.conversation(chat.id).turns:
            view = await chat_of(pilot).view.query_one(Transcript).reveal_turn(turn.id)
            assert view is not None
            await app_of(pilot).chat_screen.action_command("details")
            await check(pilot)
            await pilot.press("escape")
        for text in some(texts):
            await app_of(pilot).chat_screen.action_command("model", text)
            await check(pilot)
            pilot.app.clear_notifications()


async def test_as_what_a_failure_says(texts: list[str]) -> None:
    said: list[str] = []

    def fails(model: str, report: object) -> ScriptedEngine:
        raise ModelError(said[-1], hint=said[-1])

    said.append("first")
    async with make_app(open_engine=fails).run_test() as pilot:
        for text in some(texts):
            said.append(text)
            app_of(pilot).services.load_engine(text)
            await until(pilot, lambda: plain(chat_of(pilot).view.query_one("EngineBanner")))
            await check(pilot)
            await chat_of(pilot).view.show_notice(text)
            await chat_of(pilot).view.show_notice(ModelError(text, hint=text))
            await check(pilot)
            pilot.app.clear_notifications()


def test_every_drawn_click_action_is_chatlms_own(texts: Iterable[str]) -> None:
    assert all(OUR_ACTION.fullmatch(f"screen.command('{name}')") for name in commands.ALL)
    assert not any(OUR_ACTION.search(action) for action in ("app.quit", "link('file:///x')"))
