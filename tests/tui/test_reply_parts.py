"""A reply shows its reasoning, tool calls, results, images and files beside its text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

import pytest
from textual.pilot import Pilot
from textual.widgets import TextArea

from chatlm.store.store import Store
from chatlm.tui import clipboard
from chatlm.tui.chat.image_block import ImageBlock
from chatlm.tui.chat.live_turn import LiveTurn, TextStreamed, run_turn
from chatlm.tui.chat.reply_text import ReplyText
from chatlm.tui.chat.reply_view import ReplyView
from chatlm.tui.chat.thought_block import ThoughtBlock
from chatlm.tui.chat.tool_block import ToolBlock
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.screens.details import DetailsScreen
from chatlm.tui.services import OpenChat
from chatlm.types.conversations import Turn
from chatlm.types.events import Delta, SessionEvent
from chatlm.types.messages import Message
from chatlm.types.parts import File, Image, Part, Reasoning, Text, ToolCall, ToolResult
from chatlm.types.replies import Reply, ReplyStep, StopReason, Usage
from tests.tui.board import MOMENT, USAGE, BoardApp, settled
from tests.tui.support import plain, until

CAT = Image("image/png", 640, 480, "a" * 64, "cat.png")
FORECAST = "\n".join(f"{hour:02}:00  {8 + hour % 9} °C" for hour in range(24))
STEPS = (
    ReplyStep(
        (
            Reasoning("The user asks about *Paris*.\n\nI should look the weather up."),
            Text("Let me look."),
            ToolCall("c1", "get_weather", '{"city": "Paris",\n "unit": "celsius"}'),
            ToolResult("c1", "get_weather", FORECAST),
        ),
        StopReason.TOOL_CALLS,
        USAGE,
    ),
    ReplyStep(
        (
            ToolCall("c2", "get_map", '{"city": "Paris"}'),
            ToolResult("c2", "get_map", "the server did not answer", is_error=True),
        ),
        StopReason.TOOL_CALLS,
        USAGE,
    ),
    ReplyStep(
        (Reasoning("No map, then."), Text("It will be **mild** in Paris."), CAT),
        StopReason.END,
        USAGE,
    ),
)
QUESTION = (Text("How is the weather here?"), CAT, File("notes.txt", "Paris\n"))


def turn_of(*steps: ReplyStep) -> Turn:
    reply = Reply(1, 1, model="m", steps=steps, created=MOMENT)
    return Turn(1, 0, Message("user", QUESTION), (reply,))


def blocks(view: TurnView) -> list[str]:
    """What each block of the reply draws."""
    return [plain(block) for block in view.query_one(ReplyView).children]


@pytest.mark.parametrize("size", [(80, 40), (160, 48)], ids=["80x40", "160x48"])
def test_a_reply_of_several_steps(snap_compare: Callable[..., bool], size: tuple[int, int]) -> None:
    app = BoardApp([turn_of(*STEPS)])

    async def before(pilot: Pilot[None]) -> None:
        app.board.query_one(TextArea).cursor_blink = False
        await settled(pilot, app)
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=before)


async def test_all_parts_are_drawn_in_order() -> None:
    app = BoardApp([turn_of(*STEPS)])
    async with app.run_test(size=(100, 60)) as pilot:
        await settled(pilot, app)
        view = app.views[0]
        kinds = [type(block) for block in view.query_one(ReplyView).children]
        assert kinds == [
            ThoughtBlock, ReplyText, ToolBlock, ToolBlock, ThoughtBlock, ReplyText, ImageBlock,
        ]  # fmt: skip
        thought, text, called, failed, _, answer, image = blocks(view)
        assert thought == "▸ Thought"
        assert (text, answer) == ("Let me look.", "It will be mild in Paris.")
        assert called == "▸ get_weather  done  city=Paris · unit=celsius"
        assert failed == "▸ get_map  failed  city=Paris"
        assert image == "Image  cat.png · image/png · 640×480  ▸ show"
        message = plain(view.query_one(".user"))
        assert message == ("How is the weather here?\nFile  notes.txt · text/plain · 6 characters")
        assert plain(view.query_one("ImageBlock.-user")) == image


async def test_only_the_text_of_a_reply_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    monkeypatch.setattr(clipboard, "copy", lambda app, text, what: copied.append(text))
    app = BoardApp([turn_of(*STEPS)])
    async with app.run_test() as pilot:
        await settled(pilot, app)
        app.views[0].copy_reply()
    assert copied == ["Let me look.\n\nIt will be **mild** in Paris."]


async def test_parts_are_safe_on_a_terminal() -> None:
    unsafe = "a\x1b[31m\u202eb"
    parts: tuple[Part, ...] = (
        Reasoning(unsafe),
        ToolCall(unsafe, unsafe, unsafe),
        ToolResult(unsafe, unsafe, f"{unsafe}\n[bold]{unsafe}"),
        Image(unsafe, 1, 1, "b" * 64, unsafe),
        File(unsafe, unsafe, unsafe),
    )
    app = BoardApp([turn_of(ReplyStep(parts, StopReason.END, USAGE))])
    async with app.run_test(size=(100, 60)) as pilot:
        await settled(pilot, app)
        await app.transcript.open_thoughts(app.views[0], True)
        await settled(pilot, app)
        drawn = "\n".join(blocks(app.views[0]))
        assert "\x1b" not in drawn and "\u202e" not in drawn
        assert drawn.count("a␛[31m⟨U+202E⟩b") == 10
        assert "[bold]" in drawn


async def test_a_version_with_other_parts_replaces_what_is_drawn() -> None:
    app = BoardApp([turn_of(*STEPS)])
    async with app.run_test(size=(100, 60)) as pilot:
        await settled(pilot, app)
        view = app.views[0]
        await view.show_turn(turn_of(ReplyStep((Text("Just text."),), StopReason.END, USAGE)))
        await until(pilot, lambda: blocks(view) == ["Just text."])
        await view.show_turn(turn_of(STEPS[0]))
        await until(pilot, lambda: len(blocks(view)) == 3)
        await view.show_turn(Turn(1, 0, Message("user", "Hi")))
        await until(pilot, lambda: not view.query(ReplyView))


def test_streamed_texts_of_different_parts_are_never_joined() -> None:
    def events() -> Generator[SessionEvent]:
        for number in range(60):
            yield Delta(f"{number} ", part="reasoning" if number < 30 else "text")

    posted: list[object] = []

    run_turn(events, threading.Event(), posted.append, Store(None).turn)
    streamed = [message for message in posted if isinstance(message, TextStreamed)]
    for part, numbers in (("reasoning", range(30)), ("text", range(30, 60))):
        text = "".join(message.text for message in streamed if message.part == part)
        assert text == "".join(f"{number} " for number in numbers)


async def test_streamed_reasoning_survives_a_turn_that_cannot_be_read_back() -> None:
    chat = OpenChat(Store(None), 1)
    live = LiveTurn(chat, chat, reply=Reply(1, 1))
    await live.append_text(TextStreamed("Hm.", Usage(9, 0, 4, 0.5, 2.0, 4), "reasoning"))
    await live.append_text(TextStreamed("Yes.", Usage(9, 0, 5, 0.5, 3.0, 4)))
    stored = Turn(1, 0, Message("user", "?"), (Reply(1, 1, stop_reason=StopReason.ERROR),))
    (reply,) = live.with_streamed_text(stored).replies
    assert reply.parts == (Reasoning("Hm.", 2.0, 4), Text("Yes."))
    assert reply.stop_reason is StopReason.ERROR


async def test_the_details_card_names_the_parts() -> None:
    turn = turn_of(*STEPS)
    assert turn.reply is not None
    app = BoardApp([turn])
    async with app.run_test(size=(100, 40)) as pilot:
        await app.push_screen(DetailsScreen(turn, turn.reply, None))
        await until(pilot, lambda: "Details" in plain(app.screen))
        drawn = plain(app.screen)
    assert "2 × reasoning, 2 × text, 2 × tool call, 2 × tool result, image" in drawn
    assert f"thought             {len(turn.reply.reasoning)} characters" in drawn
