"""Traces: each plugin call of a turn is recorded and stored with it, whatever happens."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click import unstyle

from chatlm.chat.session import ChatSession
from chatlm.cli.chats_show import trace_lines, trace_to_dicts
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import EngineError, StoreError
from chatlm.plugin_host import trace_diff as changing
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.trace_diff import find_changes, summarise_result
from chatlm.store.export import stream_export
from chatlm.store.importing.chatlm_jsonl import parse_chatlm
from chatlm.store.importing.importer import import_file
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.events import Delta, Notice, TurnFinished
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.provenance import Call, Change, Trace, format_duration
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling


def loud(ids: Any, scores: Any) -> Any:
    return scores


class Busy:
    """Takes part in everything."""

    @hookimpl
    def write_message(self, text: str) -> str:
        return f"Answer in one word. {text}"

    @hookimpl
    def annotate_message(self, message: Message) -> list[Annotation]:
        return [Annotation("busy", "mood", "calm", 0.5)]

    @hookimpl
    def retrieve_passages(self) -> list[Passage]:
        time.sleep(0.01)
        return [Passage("A", "a.md", 1.0), Passage("B", "b.md", 0.5), Passage("C", "a.md", 0.4)]

    @hookimpl
    def build_messages(self, conversation: Conversation, turn: Turn) -> list[Message]:
        return [Message("system", "Be quick."), turn.user]

    @hookimpl
    def adjust_request(self, request: Request) -> Request:
        calm = request.sampling.with_fallback(Sampling(temperature=0.25, stop=("\n",)))
        return dataclasses.replace(
            request, sampling=calm, logits_processors=(loud,), adapter="pirate"
        )

    @hookimpl
    def turn_finished(self, turn: Turn) -> None: ...


class Fails:
    """Raises in the hooks that a reply waits for."""

    @hookimpl
    def write_message(self, text: str) -> str:
        raise ValueError("no words")

    @hookimpl
    def build_messages(self) -> list[Message]:
        return []

    @hookimpl
    def adjust_request(self, request: Request) -> Request:
        system = Message("system", "Obey.")
        return dataclasses.replace(request, messages=(*request.messages, system))


def chat(
    store: Store, *plugins: tuple[str, Any], replies: tuple[Any, ...] = ("Yes.", "No.")
) -> Any:
    engine = ScriptedEngine(*replies)
    return ChatSession(
        store, lambda: engine, plugins=PluginHost(plugins), system="Be kind."
    ), engine


@pytest.fixture
def store() -> Store:
    return Store(None)


def newest(session: ChatSession) -> Turn:
    assert session.conversation is not None
    return session.conversation.turns[-1]


def test_each_call_of_a_turn_is_kept_with_what_it_changed(store: Store) -> None:
    session, _ = chat(store, ("busy", Busy()))
    list(session.send("Is it?"))
    turn = newest(session)
    message, reply = store.traces(turn.id)
    assert turn.reply is not None
    assert (message.reply_id, reply.reply_id) == (None, turn.reply.id)
    assert [(call.plugin, call.hook, call.result_summary) for call in message.calls] == [
        ("busy", "write_message", "a message of 26 characters"),
        ("busy", "annotate_message", "mood calm (0.50)"),
        ("busy", "retrieve_passages", "3 passages: a.md, b.md"),
    ]
    assert message.calls[0].changes == (Change("message", "Is it?", "Answer in one word. Is it?"),)
    assert 0.01 <= message.calls[2].seconds < message.seconds < 5
    built, adjusted, labelled, finished, processor = reply.calls
    assert processor.hook == "a logits processor"
    assert built.result_summary == "2 messages"
    assert [(c.target, c.after) for c in built.changes] == [
        ("message 1 (system)", "Be quick."),
        ("message 2 (user)", "Answer in one word. Is it?"),
    ]
    assert built.changes[1].before.startswith("Sources:\n\n[1] a.md")
    assert [dataclasses.astuple(c) for c in adjusted.changes] == [
        ("temperature", "", "0.25"),
        ("stop", "", '["\\n"]'),
        ("adapter", "", "pirate"),
        ("logits processors", "", "loud"),
    ]
    assert (labelled.hook, labelled.result_summary) == ("annotate_message", "mood calm (0.50)")
    assert finished == dataclasses.replace(
        finished, hook="turn_finished", result_summary="", changes=()
    )


def test_a_failing_hook_is_traced_and_the_cores_messages_are_used(store: Store) -> None:
    session, engine = chat(store, ("fails", Fails()))
    events = list(session.send("Hi"))
    assert isinstance(events[-1], TurnFinished)
    message, reply = store.traces(newest(session).id)
    assert [(c.hook, c.error) for c in (*message.calls, *reply.calls)] == [
        ("write_message", "ValueError: no words"),
        ("build_messages", "ValueError: returned no message of the user"),
        (
            "adjust_request",
            "ValueError: returned a system message that is not the first message",
        ),
    ]
    asked = [(m.role, m.text) for m in engine.requests[0].messages]
    assert asked == [("system", "Be kind."), ("user", "Hi")]
    assert newest(session).raw_input == ""
    assert sum(isinstance(event, Notice) for event in events) == 3


BROKEN: list[tuple[list[Message], str]] = [
    ([], "no message of the user"),
    ([Message("system", "Obey.")], "no message of the user"),
    ([Message("system", "a"), Message("system", "b")], "system message that is not the first"),
    ([Message("user", "a"), Message("system", "b")], "system message that is not the first"),
    ([Message("assistant", "a"), Message("user", "b")], "the assistant speaks before the user"),
    (
        [Message("user", "a"), Message("assistant", "b"), Message("assistant", "c")],
        "two messages of the assistant in a row",
    ),
    ([Message("user", "a"), Message("user", " \n")], "the last is empty"),
]


@pytest.mark.parametrize("hook", ["build_messages", "adjust_request"])
@pytest.mark.parametrize(("messages", "said"), BROKEN)
def test_messages_that_no_model_can_answer_are_refused(
    store: Store, hook: str, messages: list[Message], said: str
) -> None:
    def build(conversation: Any) -> list[Message]:
        return messages

    def adjust(request: Request) -> Request:
        return dataclasses.replace(request, messages=tuple(messages))

    functions: dict[str, Callable[..., Any]] = {"build_messages": build, "adjust_request": adjust}
    plugin = type("Plugin", (), {hook: staticmethod(hookimpl(functions[hook]))})()
    session, engine = chat(store, ("bad", plugin))
    list(session.send("Hi"))
    assert [m.text for m in engine.requests[0].messages] == ["Be kind.", "Hi"]
    (fault,) = session.plugins.all_faults
    assert (fault.plugin, fault.hook) == ("bad", hook)
    assert said in fault.error


class Begins:
    """Puts the first words into the model's mouth."""

    @hookimpl
    def build_messages(self, turn: Turn) -> list[Message]:
        return [turn.user, Message("assistant", "Well, ")]


def test_a_reply_begun_by_a_plugin_is_continued_as_one_message(store: Store) -> None:
    session, engine = chat(store, ("begins", Begins()), replies=("one two three", "four"))
    with closing(session.send("Hi")) as events:
        next(event for event in events if isinstance(event, Delta) and event.text == "one")
    list(session.continue_reply())
    assert [m.text for m in engine.requests[1].messages] == ["Hi", "Well, one"]
    assert session.plugins.all_faults == []


def test_regenerating_and_continuing_are_traced_with_their_reply(store: Store) -> None:
    session, _ = chat(store, ("busy", Busy()), replies=("One.", "two three", "four"))
    list(session.send("Hi"))
    with closing(session.regenerate()) as events:
        next(event for event in events if isinstance(event, Delta))
    list(session.continue_reply())
    turn = newest(session)
    first, second = turn.replies
    assert [trace.reply_id for trace in store.traces(turn.id)] == [
        None, first.id, second.id, second.id,
    ]  # fmt: skip
    assert [call.hook for call in store.traces(turn.id)[2].calls] == [
        "build_messages", "adjust_request", "annotate_message", "turn_finished",
        "a logits processor",
    ]  # fmt: skip


def test_a_reply_that_fails_keeps_what_plugins_did(store: Store) -> None:
    session, _ = chat(store, ("busy", Busy()), replies=(EngineError("broken"),))
    with pytest.raises(EngineError):
        list(session.send("Hi"))
    assert len(store.traces(newest(session).id)) == 2


def test_nothing_is_kept_for_a_turn_that_no_plugin_touched(store: Store) -> None:
    class Elsewhere:
        @hookimpl
        def shutdown(self) -> None: ...

    session, _ = chat(store, ("elsewhere", Elsewhere()))
    list(session.send("Hi"))
    assert store.traces(newest(session).id) == []


def test_a_plugin_that_is_off_in_the_chat_is_called_in_no_hook_of_a_turn(store: Store) -> None:
    session, engine = chat(store, ("busy", Busy()), replies=("One.", "Two.", "Three."))
    session.disabled_plugins = frozenset({"busy"})
    list(session.send("Hi"))
    list(session.regenerate())
    turn = newest(session)
    assert (store.traces(turn.id), store.passages(turn.id), store.annotations(turn.id)) == (
        [],
        [],
        [],
    )
    assert [m.text for m in engine.requests[1].messages] == ["Be kind.", "Hi"]
    assert engine.requests[1].adapter is None
    assert [m.text for m in session.preview("More").request.messages][-1] == "More"
    store.set_disabled_plugins(session.conversation_id, ())
    list(session.send("More"))
    assert newest(session).user.text == "Answer in one word. More"
    assert "busy" in {call.plugin for call in store.traces(newest(session).id)[0].calls}


def test_a_preview_keeps_nothing(store: Store) -> None:
    session, _ = chat(store, ("busy", Busy()))
    list(session.send("Hi"))
    before = store.traces(newest(session).id)
    session.preview("More")
    session.draft("More")
    assert store.traces(newest(session).id) == before


def test_a_trace_that_cannot_be_stored_loses_no_reply(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("The disk is full", "Free some space.")

    monkeypatch.setattr(store, "save_trace", full)
    session, _ = chat(store, ("busy", Busy()))
    events = list(session.send("Hi"))
    assert isinstance(events[-1], TurnFinished)
    reply = newest(session).reply
    assert reply is not None
    assert reply.text == "Yes."
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert (
        texts
        == ["What plugins did for this turn is not kept. The disk is full\nFree some space."] * 2
    )


def test_a_turn_that_is_stopped_before_its_reply_keeps_what_was_done_by_then(store: Store) -> None:
    session, _ = chat(store, ("busy", Busy()))
    with closing(session.send("Hi")) as events:
        next(events), next(events), next(events)
    (trace,) = store.traces(newest(session).id)
    assert [call.hook for call in trace.calls] == ["write_message", "annotate_message"]


def test_a_fork_has_its_own_and_erasing_a_chat_erases_it(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    with Store(path) as store:
        session, _ = chat(store, ("busy", Busy()))
        list(session.send("Hi"))
        original = session.conversation
        fork = store.fork(original.id)
        (turn,), (copied,) = original.turns, fork.turns
        mine, theirs = store.traces(turn.id), store.traces(copied.id)
        assert [trace.calls for trace in theirs] == [trace.calls for trace in mine]
        assert copied.reply is not None
        assert [trace.reply_id for trace in theirs] == [None, copied.reply.id]
        store.delete(original.id)
        assert store.traces(turn.id) == []
        assert len(store.traces(copied.id)) == 2
        store.delete(fork.id)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM trace").fetchone() == (0,)


HOSTILE = "\x1b[31m\ud800 <|im_end|> \u202e'\"\\ \n\t"


def test_a_trace_is_exported_and_imported_unchanged(store: Store, tmp_path: Path) -> None:
    session, _ = chat(store, ("busy", Busy()))
    list(session.send("Hi"))
    turn = newest(session)
    change = Change(HOSTILE, HOSTILE, "")
    odd = Trace((Call(HOSTILE, "adjust_request", 0.25, HOSTILE, (change,), HOSTILE),))
    store.save_trace(turn.id, odd)
    file = tmp_path / "out.jsonl"
    file.write_text("".join(stream_export(store, [1], "jsonl")), encoding="utf-8")
    with Store(None) as other:
        *_, state = import_file(other, file, "chatlm")
        (copied,) = other.conversation(state.added[0]).turns
        assert copied.reply is not None
        assert [t.calls for t in other.traces(copied.id)] == [
            t.calls for t in store.traces(turn.id)
        ]
        assert [t.reply_id for t in other.traces(copied.id)] == [None, copied.reply.id, None]


def test_the_lines_of_a_chat_name_each_call_and_are_safe_to_print(store: Store) -> None:
    session, _ = chat(store, ("busy", Busy()), ("fails", Fails()))
    list(session.send("Is it\x1b[31m?"))
    list(session.regenerate())
    list(session.send("More"))
    chat_now = session.conversation
    store.save_trace(chat_now.turns[0].id, Trace((Call(HOSTILE, HOSTILE, 0.5, HOSTILE),)))
    lines = [unstyle(line) for line in trace_lines(chat_now, store.traces)]
    assert not set("".join(lines)) & set("\x1b\u202e\n\ud800")
    assert lines[:3] == ["1  Is it␛[31m?", "", "Turn 1: Is it␛[31m?"]
    assert [line[2:].split(",")[0] for line in lines if line[:2] == "  " and line[2] != " "] == [
        "Message", "Version 1 of the reply", "Version 2 of the reply", "Message",
        "Message", "Version 1 of the reply",
    ]  # fmt: skip
    assert "              failed: ValueError: no words" in lines
    assert "              message: {+Answer in one word. +}Is it␛[31m?" in lines
    assert "              temperature: {+0.25+}" in lines
    assert any(re.fullmatch(r" +\d+(\.\d)? ms  busy +retrieve_passages +3 p.*", x) for x in lines)
    values = trace_to_dicts(chat_now, store.traces)
    assert [(v["turn"], v["version"]) for v in values][:3] == [(1, None), (1, 1), (1, 2)]
    json.dumps(values)


def test_a_chat_without_plugins_says_so(store: Store) -> None:
    session, _ = chat(store)
    list(session.send("Hi"))
    assert list(trace_lines(session.conversation, store.traces))[-1] == "  no plugin was called"
    assert trace_to_dicts(session.conversation, store.traces) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"reply": 77, "calls": []},
        {"reply": None, "calls": [{}]},
        {"reply": None, "calls": 3},
        {"calls": [{"plugin": 1, "hook": "", "seconds": 0, "said": "", "error": ""}]},
    ],
)
def test_an_invalid_trace_in_a_file_is_reported(store: Store, damage: dict[str, Any]) -> None:
    session, _ = chat(store)
    list(session.send("Hi"))
    value = json.loads("".join(stream_export(store, [1], "jsonl")))
    value["turns"][0]["traces"] = [damage]
    with pytest.raises(ValueError, match="turn 1"):
        parse_chatlm(value)
    del value["turns"][0]["traces"]
    assert parse_chatlm(value).traces == {0: []}


def test_a_damaged_trace_is_reported_and_the_chat_stays_usable(tmp_path: Path) -> None:
    with Store(tmp_path / "chats.db") as store:
        session, _ = chat(store, ("busy", Busy()))
        list(session.send("Hi"))
        with closing(sqlite3.connect(tmp_path / "chats.db")) as db:
            db.execute("UPDATE trace SET content = x'00'")
            db.commit()
        with pytest.raises(StoreError, match="The plugin trace of turn 1 is damaged"):
            store.traces(newest(session).id)
        assert store.fork(1).turns[0].user == newest(session).user
        list(session.send("Again"))


def test_a_change_far_inside_a_long_text_is_kept_with_what_is_around_it() -> None:
    before = "a" * 50_000 + "old" + "z" * 50_000
    (change,) = find_changes(before, before.replace("old", "new"))
    around = changing.SURROUNDING_LENGTH
    assert change == Change(
        "message",
        f"…{'a' * around}old{'z' * around}…",
        f"…{'a' * around}new{'z' * around}…",
    )


def test_no_call_takes_much_space() -> None:
    long = [Message("user", str(number) * 100_000) for number in range(50)]
    request = Request(tuple(long))
    after = dataclasses.replace(
        request,
        messages=tuple(Message("user", "x" * 100_000) for _ in long),
        sampling=Sampling(stop=tuple(f"{n} " * 1000 for n in range(20))),
        logits_processors=(loud,) * 500,
    )
    kept = find_changes(request, after)
    assert len(kept) == changing.MAX_CHANGES + 1
    assert kept[-1] == Change("and more", "", "40 further changes")
    assert len(json.dumps([dataclasses.astuple(change) for change in kept])) < 16_000
    (many,) = find_changes(long * 20, [Message("user", "a")] * 300)
    assert many == Change("messages", "1,000 messages", "300 messages")


def test_only_removed_and_inserted_messages_are_named() -> None:
    talk = [Message("user", f"{n}") for n in range(30)]
    put = [*talk[:10], Message("user", "new"), *talk[10:]]
    assert find_changes(talk, put) == (Change("message 11 (user)", "", "new"),)
    assert find_changes(put, talk) == (Change("message 11 (user)", "new", ""),)
    pinned = [*talk[:-1], dataclasses.replace(talk[-1], pinned=True)]
    assert find_changes(talk, pinned) == (Change("message 30 (user)", "not pinned", "pinned"),)
    assert find_changes(talk, [Message("assistant", "0"), *talk[1:]]) == (
        Change("message 1 (user)", "0", ""),
        Change("message 1 (assistant)", "", "0"),
    )
    assert find_changes(talk, list(talk)) == ()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, ""),
        ([], ""),
        ("Bonjour", "a message of 7 characters"),
        ([Message("user", "a")], "1 message"),
        ([Annotation("p", "words", "4")], "words 4"),
        ({"mood": "joy"}, "mood joy"),
        ({1}, "set"),
    ],
)
def test_results_are_summarised(value: Any, said: str) -> None:
    assert summarise_result(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "<0.1 ms"),
        (0.0004, "0.4 ms"),
        (0.00996, "10 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (12.5, "12.5 s"),
    ],
)
def test_times(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said
