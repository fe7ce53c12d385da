"""Reasoning and tool calls that an engine streams become parts of the reply."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from chatlm.chat import reply_writer
from chatlm.chat.replay import ReplayFinished, replay
from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.types.events import Delta, EngineEvent, Finished, PromptReady
from chatlm.types.messages import Message
from chatlm.types.parts import Image, Reasoning, Text, ToolCall, ToolResult
from chatlm.types.replies import Reply, ReplyStep, StopReason, Usage
from chatlm.types.requests import Request

CALL = ToolCall("c1", "add", "{}")


class EventEngine(ScriptedEngine):
    """Yields the events it is given, request by request."""

    def __init__(self, *streams: list[Delta | Finished]) -> None:
        super().__init__()
        self.info = dataclasses.replace(
            self.info, accepts=frozenset({"text", "reasoning", "image", "tool_call", "tool_result"})
        )
        self.streams = list(streams)

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        self.requests.append(request)
        yield PromptReady(1, 100, prompt_hash="h")
        yield from self.streams.pop(0)


def thought(text: str, withheld: str = "") -> Delta:
    return Delta(text, withheld, part="reasoning")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


def newest(store: Store) -> Reply:
    reply = store.conversation(1).turns[-1].reply
    assert reply is not None
    return reply


def test_deltas_are_gathered_into_the_parts_they_name(store: Store) -> None:
    engine = EventEngine(
        [
            *(thought("Hm"), thought(", "), Delta(""), thought("1+1.")),
            *(Delta("Let me"), Delta(" add.")),
            Finished(StopReason.TOOL_CALLS, Usage(1, 0, 5), tool_calls=(CALL,)),
        ]
    )
    list(ChatSession(store, lambda: engine).send("How many?"))
    assert newest(store).steps == (
        ReplyStep(
            (Reasoning("Hm, 1+1."), Text("Let me add."), CALL),
            StopReason.TOOL_CALLS,
            Usage(1, 0, 5),
        ),
    )


def test_a_growing_reply_is_journalled_with_its_parts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_writer, "JOURNAL_SECONDS", 0.0)
    engine = EventEngine([thought("Hm"), thought("m."), Delta("Two"), Delta("!", " st")])
    session = ChatSession(store, lambda: engine)
    seen = []
    with closing(session.send("How many?")) as events:
        for event in events:
            if isinstance(event, Delta):
                seen.append(newest(store).steps[0].parts)
    assert seen == [
        (),
        (Reasoning("Hmm."),),
        (Reasoning("Hmm."), Text("Two")),
        (Reasoning("Hmm."), Text("Two! st")),
    ]
    assert newest(store).stop_reason is StopReason.CANCELLED
    assert newest(store).text == "Two! st"


def test_a_reply_with_reasoning_is_continued_and_replayed(store: Store) -> None:
    whole: list[Delta | Finished] = [
        *(thought("Hm."), Delta("One"), Delta(" two")),
        Finished(StopReason.END, Usage(1, 0, 3)),
    ]
    engine = EventEngine(
        [*whole[:2], Finished(StopReason.LENGTH, Usage(1, 0, 2))],
        [*whole[2:]],
        [*whole[2:]],
        [thought("Hm?"), *whole[2:]],
    )
    session = ChatSession(store, lambda: engine)
    list(session.send("Count"))
    list(session.continue_reply())
    assert newest(store).steps[0].parts == (Reasoning("Hm."), Text("One two"))
    assert engine.requests[1].messages[-1] == Message("assistant", (Reasoning("Hm."), Text("One")))
    verdicts = [list(replay(store, engine, newest(store).id))[-1] for _ in range(2)]
    assert [isinstance(v, ReplayFinished) and v.same_text for v in verdicts] == [True, False]


def test_after_tool_results_the_reply_continues_with_another_step(store: Store) -> None:
    engine = EventEngine([Delta("Two."), Finished(StopReason.END, Usage(9, 0, 1))])
    session = ChatSession(store, lambda: engine)
    turn = store.add_turn(store.create_conversation().id, "How many?")
    called = ReplyStep((CALL, ToolResult("c1", "add", "2")), StopReason.TOOL_LIMIT, Usage(1, 0, 2))
    store.finish_reply(store.start_reply(turn.id, model="scripted").id, steps=[called])
    session.conversation_id = 1
    list(session.continue_reply())
    assert [message.role for message in engine.requests[0].messages] == [
        *("user", "assistant", "tool")
    ]
    assert newest(store).steps == (
        called,
        ReplyStep((Text("Two."),), StopReason.END, Usage(9, 0, 1)),
    )
    kept = store.provenance(newest(store).id)
    assert kept is not None
    assert kept.messages[-1].parts == (ToolResult("c1", "add", "2"),)
    engine.streams.append([Delta("Two."), Finished(StopReason.END, Usage(9, 0, 1))])
    assert isinstance(last := list(replay(store, engine, newest(store).id))[-1], ReplayFinished)
    assert last.same_text


def test_images_stay_with_the_message_that_passages_are_added_to(store: Store) -> None:
    from chatlm.chat.request_builder import default_messages
    from chatlm.types.messages import Passage

    image = Image("image/png", 3, 2, "a" * 64)
    turn = store.add_turn(store.create_conversation().id, (image, Text("What?")))
    passage = Passage("It is a cat.", "cat.md", 1.0)
    (message,) = default_messages(store.conversation(1), turn, [passage])
    sources = Text("Sources:\n\n[1] cat.md\nIt is a cat.\n\n")
    assert message.parts == (sources, image, Text("What?"))


def test_a_chat_with_an_old_image_goes_on_with_a_model_that_takes_text_only(store: Store) -> None:
    image = Image("image/png", 3, 2, "a" * 64, "cat.png")
    chat = store.create_conversation()
    first = store.add_turn(chat.id, (image, Text("What is it?")))
    reply = store.start_reply(first.id, model="scripted")
    store.finish_reply(reply.id, text="A cat.", stop_reason=StopReason.END)
    engine = ScriptedEngine("Yes.")
    list(ChatSession(store, lambda: engine, conversation_id=chat.id).send("Are you sure?"))
    sent = engine.requests[-1].messages
    assert [message.text for message in sent] == [
        "[Image: cat.png, 3×2 pixels; not shown]\nWhat is it?", "A cat.", "Are you sure?",
    ]  # fmt: skip
    assert store.conversation(chat.id).turns[0].user.parts[0] == image
