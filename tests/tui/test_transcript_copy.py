"""Copying yields the model's own text; and the details of a reply."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot

from chatlm.tui import clipboard
from chatlm.tui.screens.details import NO_PROVENANCE, DetailsScreen, format_local_time
from chatlm.types.messages import Message
from chatlm.types.provenance import Provenance
from chatlm.types.replies import Reply, StopReason
from chatlm.types.sampling import DEFAULT_SAMPLING
from tests.tui.board import BoardApp, settled, shows, turn
from tests.tui.support import drawn, hostile_texts, parts, plain, toasts, until
from tests.tui.test_reply_text import UNSAFE
from tests.waiting import PATIENCE

SIZE = (80, 24)

CODE = """Run this:

```sh
echo "one"
```

1. and this in a list:

   ```python
   if True:
       print("two")
   ```

Or

    three = 3

and `four` is none.
"""


def text_on(pilot: Pilot[None]) -> str:
    return "\n".join(text for widget in parts(pilot.app.screen) for text in drawn(widget))


async def test_the_reply_is_copied_as_it_was_written() -> None:
    text = "Escape \x1b[31m, override \u202e, half \ud83d."
    app = BoardApp([turn(1, "First.", text)])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        app.views[0].copy_reply()
        assert app.clipboard == text.replace("\ud83d", "\ufffd")
        await pilot.pause()
        assert toasts(pilot) == ["Copied the reply, 33 characters"]


async def test_a_growing_reply_can_be_copied_and_an_empty_one_says_so() -> None:
    app = BoardApp([turn(1)])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        view = app.views[0]
        view.copy_reply()
        view.copy_code()
        await pilot.pause()
        assert toasts(pilot) == ["There is no reply to copy.", "There is no code block to copy."]
        await view.begin_reply(Reply(1, 1, "Once "))
        await view.append_text("upon")
        view.copy_reply()
        assert app.clipboard == "Once upon"


async def test_code_blocks_are_copied_one_after_the_other() -> None:
    app = BoardApp([turn(1, CODE)])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        view = app.views[0]
        blocks = ['echo "one"', 'if True:\n    print("two")', "three = 3"]
        assert view.code_blocks() == blocks
        for number in (0, 1, 2, 0):
            view.copy_code()
            assert app.clipboard == blocks[number]
        await pilot.pause()
        assert toasts(pilot)[1] == "Copied code block 2 of 3, 25 characters"


async def test_hostile_replies_are_drawn_harmlessly_and_copied_whole(shared_data: Path) -> None:
    texts = [text for text in hostile_texts(shared_data) if text]
    app = BoardApp([])
    async with app.run_test(size=SIZE) as pilot:
        for start in range(0, len(texts), 100):
            some = texts[start : start + 100]
            turns = [
                turn(at, text, f"```\n{text}\n```", message=text) for at, text in enumerate(some)
            ]
            await app.transcript.show_turns(turns)
            for one in turns:
                view = await app.transcript.reveal_turn(one.id)
                assert view is not None
                view.copy_reply()
                assert one.reply is not None
                assert app.clipboard == one.reply.text.encode("utf-8", "replace").decode()
            await settled(pilot, app)
            assert UNSAFE.search(text_on(pilot)) is None
        await pilot.press("left", "left", "right", "end", "home")
        await pilot.pause()
        assert UNSAFE.search(text_on(pilot)) is None


async def test_a_selection_with_the_mouse_is_copied_as_it_is_drawn() -> None:
    app = BoardApp([turn(1, "One **two** three.\n\nFour \x1b five.")])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        view = app.views[0].query_one("ReplyText")
        await pilot.mouse_down(view, offset=(2, 0))
        await pilot.hover(view, offset=(14, 2))
        await pilot.mouse_up(view, offset=(14, 2))
        await pilot.pause()
        await pilot.press("ctrl+c")
        assert app.clipboard == "One two three.\n\nFour ␛ five."


def test_the_tools_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"tmux", "xsel", "wl-copy"}
    monkeypatch.setattr(shutil, "which", lambda name: name if name in installed else None)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("TMUX", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert list(clipboard.clipboard_commands()) == []
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")
    monkeypatch.setenv("DISPLAY", ":0")
    assert list(clipboard.clipboard_commands()) == [
        ["tmux", "load-buffer", "-w", "-"],
        ["xsel", "--clipboard", "--input"],
    ]
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert ["wl-copy"] in clipboard.clipboard_commands()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert [tool for tool in clipboard.clipboard_commands() if tool[0] != "tmux"] == []


def test_a_clipboard_tool_gets_the_text_and_failing_or_hanging_ones_are_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "copied"
    write = f"import sys; open({str(target)!r}, 'wb').write(sys.stdin.buffer.read())"
    commands = [
        ["no-such-tool-here"],
        [sys.executable, "-c", "import sys; print('noise'); sys.exit(1)"],
        [sys.executable, "-c", "import time; time.sleep(60)"],
        [sys.executable, "-c", write],
    ]
    monkeypatch.setattr(clipboard, "clipboard_commands", lambda: iter(commands))
    monkeypatch.setattr(clipboard, "TOOL_TIMEOUT_SECONDS", 1.0)
    clipboard.copy_with_system_tools("Grüße \x1b[31m 日本")
    assert target.read_bytes() == "Grüße \x1b[31m 日本".encode(), "the tool that hangs was given up"


async def test_copying_waits_for_no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    may_take = threading.Event()

    def slow(text: str) -> None:
        assert may_take.wait(PATIENCE), "copying waited for the tool"
        taken.append(text)

    monkeypatch.setattr(clipboard, "copy_with_system_tools", slow)
    monkeypatch.setattr(App, "is_headless", False)
    app = BoardApp([turn(1, "Hi.")])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        app.views[0].copy_reply()
        assert taken == []
        may_take.set()
        await until(pilot, lambda: taken)
    assert taken == ["Hi."]


PROVENANCE = Provenance(
    messages=(Message("system", "s"), Message("user", "u")),
    sampling=dataclasses.replace(DEFAULT_SAMPLING, seed=1234, stop=("\x1b", "###")),
    model="smollm2",
    prompt_format="template",
    device="cuda:0",
    weights="16-bit, transformers",
    context_length=8192,
    prompt_hash="0123456789abcdef" * 4,
    versions={"chatlm": "0.1.0", "torch": "2.13.0"},
    plugin_processors=("BanWords",),
)


async def test_the_details_show_the_provenance_of_the_reply() -> None:
    when = datetime(2026, 10, 5, 12, 30, 1, tzinfo=UTC)
    one = turn(1, "First.", "Second.")
    reply = dataclasses.replace(one.replies[0], created=when).with_stop_reason(StopReason.LENGTH)
    one = dataclasses.replace(one, replies=(reply, one.replies[1]))
    app = BoardApp([one])
    async with app.run_test(size=(80, 60)) as pilot:
        await settled(pilot, app)
        app.push_screen(DetailsScreen(one, reply, PROVENANCE, forked_from=7))
        await pilot.pause()
        card = plain(pilot.app.screen)
        for row in (
            "reached the length limit",
            "1 of 2",
            "chat 7",
            format_local_time(when),
            "20 tokens",
            "20.0 tokens/s",
            "0.25 s",
            "smollm2",
            "template",
            "cuda:0",
            "16-bit, transformers",
            "8,192 tokens",
            "0.95",
            "1234",
            '["\\u001b", "###"]',
            "0123456789abcdef",
            "BanWords",
            "2.13.0",
        ):
            assert row in card, row
        await pilot.press("c")
        copied = json.loads(app.clipboard)
        assert copied["provenance"]["prompt_hash"] == PROVENANCE.prompt_hash
        assert copied["provenance"]["sampling"]["seed"] == 1234
        assert copied["tokens_per_second"] == pytest.approx(20)
        assert "messages" not in copied["provenance"]
        await pilot.press("escape")
        assert not isinstance(pilot.app.screen, DetailsScreen)


@pytest.mark.parametrize("settings", ['{"temperature": 0.5, "seed": 7}', "{damaged", "[1]"])
async def test_an_older_reply_says_what_is_known(settings: str) -> None:
    one = turn(1, "First.")
    reply = dataclasses.replace(one.replies[0], settings=settings, model="old-\x1bmodel")
    app = BoardApp([one])
    async with app.run_test(size=(80, 48)) as pilot:
        await settled(pilot, app)
        app.push_screen(DetailsScreen(one, reply, None))
        await pilot.pause()
        card = plain(pilot.app.screen)
        assert NO_PROVENANCE in card
        assert "old-␛model" in card
        assert ("temperature" in card) is settings.startswith('{"')
        await pilot.press("c")
        assert json.loads(app.clipboard)["model"] == "old-\x1bmodel"


async def test_the_details_scroll_on_a_small_screen() -> None:
    one = turn(1, "First.")
    app = BoardApp([one])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        app.push_screen(DetailsScreen(one, one.replies[0], PROVENANCE))
        await pilot.pause()
        await pilot.press("end")
        await pilot.pause()
        scroll = pilot.app.screen.query_one("VerticalScroll")
        assert scroll.scroll_y == scroll.max_scroll_y > 0


async def test_versions_and_copies_go_together() -> None:
    app = BoardApp([turn(1, "First.", "Second.")])
    async with app.run_test(size=SIZE) as pilot:
        await settled(pilot, app)
        view = app.views[0]
        app.transcript.select_turn(view)
        await pilot.press("left")
        await shows(pilot, view, "First.")
        view.copy_reply()
        assert app.clipboard == "First."
