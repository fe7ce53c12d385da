"""Model text on the screen: Markdown whole and streamed, links, and nothing a terminal obeys."""

from __future__ import annotations

import re
import webbrowser
from pathlib import Path

import pytest

from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.tui.chat.markdown import is_web_address, markdown_parser
from chatlm.tui.chat.reply_text import ReplyText
from chatlm.types.replies import StopReason, Usage
from tests.tui.support import (
    chat_of,
    everything_drawn,
    hostile_texts,
    idle,
    make_app,
    newest,
    plain,
    say,
    until,
)

SAMPLES = [
    "One paragraph\nof two lines.\n\nAnother.",
    "# Title\n\nText\n\n## Part\n\n- a\n- b\n  - c\n\n1. x\n2. y\n\nEnd.",
    "Code:\n\n```python\ndef f():\n    return 1\n\n\nprint(f())\n```\n\nAfter.",
    "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\n> quoted\n> more\n\n---\n\nlast",
    "An [address][1] that is explained later.\n\n[1]: https://example.com\n",
    "```\nnever closed\n",
]

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)


@pytest.mark.parametrize("text", SAMPLES)
async def test_streamed_and_reopened_replies_look_the_same(text: str) -> None:
    store = Store(None)
    engine = ScriptedEngine(text, delay=0.01)
    async with make_app(engine, store).run_test() as pilot:
        await say(pilot, "Go")
        await idle(pilot)
        streamed = plain(newest(pilot).query_one(ReplyText))
        assert await chat_of(pilot).switch.open_chat(1)
        await until(pilot, lambda: plain(newest(pilot).query_one(ReplyText)))
        assert plain(newest(pilot).query_one(ReplyText)) == streamed


@pytest.mark.parametrize("text", SAMPLES)
async def test_a_reply_that_goes_on_looks_like_the_whole(text: str) -> None:
    half = len(text) // 2
    store = Store(None)
    turn = store.add_turn(store.create_conversation("Half").id, "Go")
    store.journal_reply(store.start_reply(turn.id, model="m").id, text[:half])
    other = store.add_turn(store.create_conversation("Whole").id, "Go")
    store.journal_reply(store.start_reply(other.id, model="m").id, text)
    engine = ScriptedEngine(text[half:], delay=0.01)
    async with make_app(engine, store, conversation_id=1).run_test() as pilot:
        await until(pilot, lambda: chat_of(pilot).view.newest_view)
        chat_of(pilot).turns.continue_reply()
        await until(pilot, lambda: engine.requests)
        await idle(pilot)
        grown = plain(newest(pilot).query_one(ReplyText))
        assert await chat_of(pilot).switch.open_chat(2)
        await until(pilot, lambda: plain(newest(pilot).query_one(ReplyText)))
        assert plain(newest(pilot).query_one(ReplyText)) == grown


async def test_line_ends_are_kept_and_html_and_markup_are_text() -> None:
    text = "Roses are red\nViolets are blue <b>bold</b> [red]x[/red] [@click=app.quit]y[/]"
    async with make_app(ScriptedEngine(text)).run_test() as pilot:
        await say(pilot, "[bold]Hello[/bold] [@click=app.quit]z[/]")
        await idle(pilot)
        shown = plain(newest(pilot))
        assert "Roses are red\nViolets are blue <b>bold</b> [red]x[/red]" in shown
        assert "[@click=app.quit]y[/]" in shown.replace("\n", " ")
        assert "[bold]Hello[/bold] [@click=app.quit]z[/]" in shown


@pytest.mark.parametrize(
    ("url", "opens"),
    [
        ("https://example.com/a?b=1", True),
        ("http://example.com", True),
        ("HTTPS://EXAMPLE.COM", True),
        ("javascript:alert(1)", False),
        ("file:///etc/passwd", False),
        ("mailto:a@example.com", False),
        ("ftp://example.com", False),
        ("vscode://settings", False),
        ("relative/path", False),
        ("https:///no-host", False),
    ],
)
def test_only_web_addresses_are_links(url: str, opens: bool) -> None:
    assert is_web_address(url) is opens
    assert not is_web_address("http://[broken")
    (tokens,) = [
        token.children or [] for token in markdown_parser().parse(f"[x]({url})") if token.children
    ]
    assert any(token.type == "link_open" for token in tokens) is opens


async def test_a_clicked_link_opens_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    async with make_app(ScriptedEngine("See [this](https://example.com).")).run_test() as pilot:
        monkeypatch.setattr(pilot.app, "open_url", opened.append)
        await say(pilot, "Go")
        await idle(pilot)
        view = newest(pilot).query_one(ReplyText)
        monkeypatch.setattr(webbrowser, "get", lambda: webbrowser.BackgroundBrowser("x"))
        await pilot.click(view, offset=(7, 0))
        await until(pilot, lambda: opened)
        assert opened == ["https://example.com"]
        monkeypatch.setattr(webbrowser, "get", lambda: webbrowser.GenericBrowser("lynx"))
        view.action_link("https://example.org")
        view.action_link("file:///etc/passwd")
        await until(pilot, lambda: len(pilot.app._notifications) == 2)
        assert opened == ["https://example.com"]


async def test_hostile_texts_are_drawn_harmlessly_everywhere(shared_data: Path) -> None:
    texts = hostile_texts(shared_data)
    texts += [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0xFEFF)]
    texts += ["\x1b]52;c;aGk=\x07", "\x1b[2J\x1b[H", "\x1bP+q\x1b\\", "\x9b31m"]
    store = Store(None)
    chats = []
    for start in range(0, len(texts), 40):
        part = texts[start : start + 40]
        chat = store.create_conversation(" ".join(part))
        chats.append(chat.id)
        for at in range(0, len(part), 8):
            turn = store.add_turn(chat.id, "\n".join(part[at : at + 8]) or "empty")
            reply = store.start_reply(turn.id, model="\n".join(part[at : at + 8]))
            store.finish_reply(
                reply.id,
                text="\n\n".join(part[at : at + 8]),
                stop_reason=StopReason.ERROR,
                usage=Usage(),
                error=part[at],
            )
    async with make_app(store=store).run_test(size=(120, 50)) as pilot:
        for chat_id in chats:
            assert await chat_of(pilot).switch.open_chat(chat_id)
            await until(pilot, lambda: chat_of(pilot).view.newest_view)
            assert UNSAFE.search(everything_drawn(pilot)) is None
            assert UNSAFE.search(pilot.app.export_screenshot().replace("\n", "")) is None


async def test_hostile_texts_stream_harmlessly(shared_data: Path) -> None:
    text = "\x1b]0;owned\x07\u202e\x9b\n" + "\n".join(hostile_texts(shared_data))
    async with make_app(ScriptedEngine(text)).run_test(size=(120, 50)) as pilot:
        await say(pilot, "Go")
        await idle(pilot)
        await pilot.pause()
        assert UNSAFE.search(everything_drawn(pilot)) is None
        assert "␛]0;owned␇⟨U+202E⟩⟨9B⟩" in plain(newest(pilot)).replace("\n", "")


async def test_direction_overrides_written_as_entities_are_shown() -> None:
    text = "start &#x202E;txt.exe &rlm; [a&#x2066;b](https://example.org) &#27;[31m end"
    async with make_app(ScriptedEngine(text)).run_test() as pilot:
        await say(pilot, "Go")
        await idle(pilot)
        drawn = everything_drawn(pilot)
        assert "start" in drawn
        assert not UNSAFE.search(drawn.replace("\n", ""))
        assert "⟨U+202E⟩" in drawn
