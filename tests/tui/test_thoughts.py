"""A thought is one line that opens; while it streams, its last line is previewed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

import pytest
from textual.pilot import Pilot
from textual.widgets import TextArea

from chatlm.store.store import Store
from chatlm.tui import clipboard
from chatlm.tui.chat.reply_text import ReplyText
from chatlm.tui.chat.reply_view import ReplyView
from chatlm.tui.chat.status import footer_line
from chatlm.tui.chat.thought_block import (
    PREVIEW_CHARACTERS,
    ThoughtBlock,
    fit_end,
    last_line,
)
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.chat_list.chat_list import ChatList
from chatlm.tui.chat_list.panel import HitList
from chatlm.types.conversations import Turn
from chatlm.types.events import Delta, EngineEvent, Finished, PromptReady
from chatlm.types.messages import Message
from chatlm.types.parts import Part, Reasoning, Text
from chatlm.types.replies import Reply, ReplyStep, StopReason, Usage
from chatlm.types.requests import Request
from tests.tui.board import MOMENT, USAGE, BoardApp, line_of, settled, turn
from tests.tui.support import (
    StillEngine,
    app_of,
    chat_of,
    idle,
    make_app,
    newest,
    plain,
    run,
    say,
    toasts,
    until,
)

THOUGHT = """The user asks for the capital of France.

France is a country in Europe. Its capital has been Paris for most of its history, so the answer \
is short.

Let me answer in one sentence."""
ANSWER = "The capital of France is **Paris**."


def thinking_turn(number: int, *parts: Part, message: str = "") -> Turn:
    reply = Reply(
        number * 10, 1, model="m", created=MOMENT, steps=[ReplyStep(parts, StopReason.END, USAGE)]
    )
    return Turn(number, number, Message("user", message or f"Question {number}?"), (reply,))


THINKING = thinking_turn(
    1, Reasoning(THOUGHT, 8.2, 412), Text(ANSWER), message="What is the capital of France?"
)


def blocks(view: TurnView) -> list[str]:
    """What each block of the reply draws."""
    return [plain(block) for block in view.query_one(ReplyView).children]


@pytest.mark.parametrize(
    ("thought", "caption"),
    [
        (Reasoning("x", 8.2, 412), "Thought for 8 s · 412 tokens"),
        (Reasoning("x", 0.44, 1), "Thought for 0.4 s · 1 token"),
        (Reasoning("x", 59.6, 1204), "Thought for 1 min 0 s · 1,204 tokens"),
        (Reasoning("x", 3725.0), "Thought for 62 min 5 s"),
        (Reasoning("x", 0.01, 3), "Thought · 3 tokens"),
        (Reasoning("x", None, 3), "Thought · 3 tokens"),
        (Reasoning("x"), "Thought"),
    ],
)
def test_a_caption_says_what_is_known(thought: Reasoning, caption: str) -> None:
    assert thought.caption == caption


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("one", "one"),
        ("one\ntwo\n\n", "two"),
        ("a\n  b\x1b[31m c ", "b␛[31m c"),
        ("x" * 5000, "x" * PREVIEW_CHARACTERS),
    ],
    ids=["none", "one", "two", "control", "long"],
)
def test_the_last_line_is_found_and_safe(text: str, expected: str) -> None:
    assert last_line(text) == expected


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("so it is", 8, "so it is"),
        ("so it is", 6, "…it is"),
        ("so it is", 4, "…is"),
        ("首都は巴里", 6, "…巴里"),
        ("abc", 1, "…"),
        ("abc", 0, "…"),
    ],
)
def test_the_end_of_a_long_line_is_shown(text: str, width: int, expected: str) -> None:
    assert fit_end(text, width) == expected


async def test_a_thought_is_folded_until_it_is_opened() -> None:
    app = BoardApp([THINKING])
    async with app.run_test(size=(80, 30)) as pilot:
        await settled(pilot, app)
        (view,) = app.views
        assert blocks(view) == [
            "▸ Thought for 8 s · 412 tokens", "The capital of France is Paris.",
        ]  # fmt: skip
        assert not view.query_one(ThoughtBlock).query(ReplyText)
        await app.transcript.open_thoughts(view, True)
        await until(pilot, lambda: "in one sentence" in blocks(view)[0])
        assert blocks(view)[0].startswith("▾ Thought for 8 s · 412 tokens\nThe user asks")
        await app.transcript.open_thoughts(view, False)
        await until(pilot, lambda: blocks(view)[0] == "▸ Thought for 8 s · 412 tokens")


async def test_neighbouring_thoughts_are_one() -> None:
    parts = (Reasoning("One. ", 1.0, 2), Reasoning("Two.", 2.0, 3), Text("Three."))
    app = BoardApp([thinking_turn(1, *parts)])
    async with app.run_test(size=(80, 30)) as pilot:
        await settled(pilot, app)
        assert blocks(app.views[0]) == ["▸ Thought for 3 s · 5 tokens", "Three."]


async def test_what_is_open_stays_open_when_it_was_out_of_sight() -> None:
    turns = [thinking_turn(n, Reasoning(f"thought {n}"), Text(f"Answer {n}.")) for n in range(60)]
    app = BoardApp(turns)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot, app)
        view = await app.transcript.reveal_turn(10)
        assert view is not None
        await app.transcript.open_thoughts(view, True)
        await app.transcript.follow_end()
        await until(pilot, lambda: all(each.turn.id != 10 for each in app.views))
        again = await app.transcript.reveal_turn(10)
        assert again is not None and again is not view
        await until(pilot, lambda: blocks(again)[0] == "▾ Thought\nthought 10")
        others = [each for each in app.views if each is not again]
        assert others and all(blocks(each)[0] == "▸ Thought" for each in others)


async def test_opening_a_thought_keeps_the_place() -> None:
    """The message of the turn stays where it is, even if the end was followed."""
    long = Reasoning("\n\n".join(f"Step {number}." for number in range(40)))
    app = BoardApp([turn(0, "Hello."), thinking_turn(1, long, Text("So."))])
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot, app)
        view = app.views[1]
        before = view.region.y
        await app.transcript.open_thoughts(view, True)
        await until(pilot, lambda: "Step 39." in blocks(view)[0])
        await until(pilot, lambda: view.region.y == before)


async def test_the_hint_of_a_selected_turn_names_the_key_if_there_are_thoughts() -> None:
    app = BoardApp([turn(0, "Hello."), THINKING])
    async with app.run_test(size=(80, 30)) as pilot:
        await settled(pilot, app)
        plain_turn, thinking = app.views
        assert "o thoughts" not in [hint.plain for hint in plain_turn.hints]
        assert "o thoughts" in [hint.plain for hint in thinking.hints]
        assert len(footer_line(thinking.hints, (), 78)) <= 78


async def test_thoughts_are_copied_apart_from_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    monkeypatch.setattr(clipboard, "copy", lambda app, text, what: copied.append(text))
    parts = (Reasoning("One."), Text("a"), Reasoning("Two."), Text("b"))
    app = BoardApp([turn(0, "Hello."), thinking_turn(1, *parts)])
    async with app.run_test() as pilot:
        await settled(pilot, app)
        for view in app.views:
            view.copy_reply()
            view.copy_thoughts()
    assert copied == ["Hello.", "ab", "One.\n\nTwo."]


class ThinkingEngine(StillEngine):
    """Thinks before it answers, and pauses after its thought until `go` is set."""

    def __init__(self, *thoughts: str, answer: str = "It is noon.") -> None:
        super().__init__(answer)
        self._thoughts = thoughts
        self.think_on = threading.Event()
        """Set to let it think its last words."""

    def stream(self, request: Request) -> Generator[EngineEvent]:
        self.requests.append(request)
        yield PromptReady(12, 8192)
        usage = Usage(12)
        for made, piece in enumerate(self._thoughts, start=1):
            if made == len(self._thoughts):
                while not self.think_on.wait(0.01):
                    yield Delta("", usage=usage, part="reasoning")
            usage = Usage(12, 0, made * 10, 0.5, made * 2.5, made * 10)
            yield Delta(piece, usage=usage, part="reasoning")
        while not self.go.wait(0.01):
            yield Delta("", usage=usage, part="reasoning")
        end = Usage(12, 0, usage.completion_tokens + 3, 0.5, 9.0, usage.reasoning_tokens)
        yield Delta(self._pieces[0], usage=end)
        yield Finished(StopReason.END, end)


def shown(pilot: Pilot[None]) -> list[str]:
    view = newest(pilot)
    return blocks(view) if view.query(ReplyView) else []


async def test_a_streaming_thought_shows_its_last_line_then_what_it_took() -> None:
    engine, store = ThinkingEngine("Let me\n", "look at the clock."), Store(None)
    async with make_app(engine, store).run_test() as pilot:
        await say(pilot, "What time is it?")
        await until(pilot, lambda: shown(pilot) == ["▸ Thinking … 2 s · 10 tokens\nLet me"])
        assert line_of(newest(pilot)).startswith("thinking · 10 tokens")
        engine.think_on.set()
        thought = ["▸ Thinking … 5 s · 20 tokens\nlook at the clock."]
        await until(pilot, lambda: shown(pilot) == thought)
        assert newest(pilot).reply_text == ""
        engine.go.set()
        await idle(pilot)
        expected = ["▸ Thought for 5 s · 20 tokens", "It is noon."]
        await until(pilot, lambda: shown(pilot) == expected)
        await chat_of(pilot).switch.open_chat(1)
        await until(pilot, lambda: shown(pilot) == expected)
    reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert reply.parts == (Reasoning("Let me\nlook at the clock.", 5.0, 20), Text("It is noon."))
    assert len(engine.requests) == 1


async def test_a_streaming_thought_opens_and_stays_open() -> None:
    engine = ThinkingEngine("Let me ", "look.")
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "What time is it?")
        await until(pilot, lambda: shown(pilot)[:1] == ["▸ Thinking … 2 s · 10 tokens\nLet me"])
        await pilot.press("tab", "o")
        await until(pilot, lambda: shown(pilot) == ["▾ Thinking … 2 s · 10 tokens\nLet me"])
        engine.think_on.set()
        await until(pilot, lambda: shown(pilot) == ["▾ Thinking … 5 s · 20 tokens\nLet me look."])
        engine.go.set()
        await idle(pilot)
        ended = ["▾ Thought for 5 s · 20 tokens\nLet me look.", "It is noon."]
        await until(pilot, lambda: shown(pilot) == ended)
        await pilot.press("o")
        await until(pilot, lambda: shown(pilot)[0] == "▸ Thought for 5 s · 20 tokens")


async def test_a_thought_that_was_stopped_is_a_thought() -> None:
    engine, store = ThinkingEngine("Let me ", "look."), Store(None)
    async with make_app(engine, store).run_test() as pilot:
        await say(pilot, "What time is it?")
        await until(pilot, lambda: shown(pilot)[:1] == ["▸ Thinking … 2 s · 10 tokens\nLet me"])
        await pilot.press("escape")
        await idle(pilot)
        await until(pilot, lambda: shown(pilot) == ["▸ Thought for 2 s · 10 tokens"])
        assert "stopped" in line_of(newest(pilot))


async def test_a_thought_that_goes_on_streams_again() -> None:
    """Such as after a switch to another chat and back, or when a reply is continued."""
    cut = thinking_turn(1, Reasoning("Two and", 8.0, 400))
    app = BoardApp([cut])
    async with app.run_test(size=(80, 30)) as pilot:
        await settled(pilot, app)
        (view,) = app.views
        assert cut.reply is not None
        await view.begin_reply(cut.reply)
        await view.append_text(" two.", "reasoning", Reasoning("", 9.0, 402))
        await until(pilot, lambda: blocks(view) == ["▸ Thinking … 9 s · 402 tokens\nTwo and two."])
        await view.append_text("Four.", "text")
        await until(pilot, lambda: blocks(view) == ["▸ Thought for 9 s · 402 tokens", "Four."])


async def test_a_click_on_the_line_opens_it() -> None:
    engine = ThinkingEngine("Let me ", "look.")
    engine.think_on.set()
    engine.go.set()
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "What time is it?")
        await idle(pilot)
        await pilot.click("ThoughtHead", offset=(6, 0))
        await until(pilot, lambda: "Let me look." in shown(pilot)[0])


async def test_a_reply_without_thoughts_says_so() -> None:
    async with make_app(StillEngine("Hello.")).run_test() as pilot:
        await say(pilot, "Hi")
        await idle(pilot)
        await run(pilot, "thoughts")
        await run(pilot, "copy-thoughts")
        said = "\n".join(toasts(pilot))
        assert said.count("This reply has no thoughts") == 2


async def test_a_long_thought_costs_nothing_while_it_is_folded() -> None:
    """Its text is neither parsed nor wrapped, however long it is."""
    app = BoardApp([thinking_turn(1, Reasoning("word " * 20_000, 60.0, 20_000), Text("So."))])
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot, app)
        assert [text.has_class("x") for text in app.views[0].query(ReplyText)] == [False]
        assert app.views[0].query_one(ThoughtBlock).region.height == 1


SnapCompare = Callable[..., bool]
sizes = pytest.mark.parametrize("size", [(80, 24), (120, 36)], ids=["80x24", "120x36"])
themes = pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])


def picture(
    compare: SnapCompare, app: BoardApp, size: tuple[int, int], theme: str, *, is_open: bool
) -> bool:
    async def before(pilot: Pilot[None]) -> None:
        app.theme = theme
        app.board.query_one(TextArea).cursor_blink = False
        await settled(pilot, app)
        if is_open:
            await app.transcript.open_thoughts(app.views[-1], True)
        app.transcript.select_turn(app.views[-1])
        await settled(pilot, app)
        await pilot.pause()

    return compare(app, terminal_size=size, run_before=before)


@sizes
@themes
@pytest.mark.parametrize("is_open", [False, True], ids=["folded", "open"])
def test_picture_of_thoughts(
    snap_compare: SnapCompare, size: tuple[int, int], theme: str, is_open: bool
) -> None:
    """A measured thought, an older one above it."""
    older = thinking_turn(0, Reasoning("An older thought."), Text("Hello! How can I help?"))
    app = BoardApp([older, THINKING])
    assert picture(snap_compare, app, size, theme, is_open=is_open)


@sizes
@themes
@pytest.mark.parametrize("is_open", [False, True], ids=["folded", "open"])
def test_picture_while_it_thinks(
    snap_compare: SnapCompare, size: tuple[int, int], theme: str, is_open: bool
) -> None:
    """The last line below the time and the tokens; the status line says that it thinks."""
    engine = ThinkingEngine(*THOUGHT.replace("sentence.", "sentence, | then.").split("|"))
    app = make_app(engine, theme=theme)

    async def before(pilot: Pilot[None]) -> None:
        chat_of(pilot).composer.cursor_blink = False
        await say(pilot, "What is the capital of France?")
        await until(pilot, lambda: shown(pilot)[:1] and "10 tokens" in shown(pilot)[0])
        if is_open:
            await run(pilot, "thoughts")
            await until(pilot, lambda: "The user asks" in shown(pilot)[0])
        await until(pilot, lambda: app_of(pilot).chat_screen._status_bar.status.reason)
        chats, chat_id = (
            app_of(pilot).chat_screen.query_one(ChatList),
            chat_of(pilot).conversation_id,
        )
        chats.reload(chat_id, chat_id)  # it may have been read before the reply was stored
        await until(pilot, lambda: chats.up_to_date)
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=before)
    engine.think_on.set()
    engine.go.set()


async def test_a_search_finds_thoughts_by_themselves_and_opens_them() -> None:
    store = Store(None)
    for number in range(20):
        chat = store.create_conversation(f"Chat {number}")
        asked = store.add_turn(chat.id, "Where?")
        parts = (Reasoning("It may be on the Seine."), Text("In Paris."))
        step = ReplyStep(parts if number == 3 else parts[1:], StopReason.END)
        store.finish_reply(store.start_reply(asked.id, model="m").id, steps=[step])
        store.add_turn(chat.id, "Really?")
    app = make_app(StillEngine("Hi"), store)
    async with app.run_test(size=(120, 40)) as pilot:
        await run(pilot, "search", "seine")
        hits = app_of(pilot).chat_screen.query_one(HitList)
        await until(pilot, lambda: hits.hits)
        rows = [str(option.prompt).strip() for option in hits.options]
        assert rows == ["Thoughts", "Chat 3\nthought It may be on the Seine."]
        await until(pilot, lambda: hits.has_focus)
        await pilot.press("down", "enter")
        await until(pilot, lambda: chat_of(pilot).conversation_id == 4)
        await until(pilot, lambda: isinstance(app_of(pilot).focused, TurnView))
        view = app_of(pilot).focused
        assert isinstance(view, TurnView)
        await until(pilot, lambda: blocks(view)[0] == "▾ Thought\nIt may be on the Seine.")
        await run(pilot, "search", "paris")
        await until(pilot, lambda: len(hits.hits) == 20)
        assert not any(hit.part == "reasoning" for hit in hits.hits)
