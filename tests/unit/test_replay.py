"""A replay repeats the stored request, ends where the reply ended, and reports differences."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.chat.live_tools import LiveTools
from chatlm.chat.replay import ReplayEvent, ReplayFinished, ReplayStarted, replay
from chatlm.chat.session import ChatSession
from chatlm.chat.tool_set import ToolOptions
from chatlm.chat.word_diff import DiffSegment, diff_words
from chatlm.cli.chats_show import _reply_facts
from chatlm.engines.scripted import ScriptedEngine, ScriptedReply
from chatlm.errors import EngineError, StoreError, UsageError
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.types.events import Approval, ApprovalNeeded, Delta, Finished
from chatlm.types.messages import Message
from chatlm.types.parts import Reasoning, Text, ToolCall, ToolResult
from chatlm.types.provenance import Provenance
from chatlm.types.replies import Reply, StopReason
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from chatlm.types.tool_rules import ToolSettings
from chatlm.types.tools import tool
from tests.costs import processor_seconds, step_seconds


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


def chat(store: Store, engine: Any) -> ChatSession:
    return ChatSession(store, lambda: engine, system="Be kind.", sampling=Sampling(seed=3))


def store_reply(store: Store, *replies: ScriptedReply) -> Reply:
    """Return the reply of a chat whose engine has this script."""
    session = chat(store, ScriptedEngine(*replies))
    list(session.send("Hi"))
    return newest(store)


def newest(store: Store) -> Reply:
    reply = store.conversation(1).turns[-1].reply
    assert reply is not None
    return reply


def replayed(store: Store, engine: Any, reply: Reply, **more: Any) -> ReplayFinished:
    before = store.conversation(1)
    events = list(replay(store, engine, reply.id, **more))
    assert isinstance(events[0], ReplayStarted)
    assert events[0].original == reply
    last = events[-1]
    assert isinstance(last, ReplayFinished)
    assert store.conversation(1) == before
    return last


def test_the_stored_request_yields_the_same_reply(store: Store) -> None:
    reply, engine = store_reply(store, "Hello you."), ScriptedEngine("Hello you.")
    again = replayed(store, engine, reply)
    assert (again.same_text, again.same_prompt, again.mismatches) == (True, True, ())
    assert (again.text, again.stop_reason) == ("Hello you.", StopReason.END)
    assert again.usage.completion_tokens == 2
    request = engine.requests[0]
    assert request.messages == (Message("system", "Be kind."), Message("user", "Hi"))
    assert (request.sampling.seed, request.adapter) == (3, None)
    assert request.sampling == again.provenance.sampling


def test_an_empty_reply_is_empty_again(store: Store) -> None:
    reply = store_reply(store, StopReason.END)
    assert reply.stop_reason is StopReason.EMPTY
    again = replayed(store, ScriptedEngine(StopReason.END), reply)
    assert (again.same_text, again.stop_reason) == (True, StopReason.EMPTY)


def test_another_text_is_not_the_same(store: Store) -> None:
    again = replayed(store, ScriptedEngine("Hello they."), store_reply(store, "Hello you."))
    assert (again.same_text, again.same_prompt) == (False, True)
    assert again.text == "Hello they."


def test_changed_facts_are_named(store: Store) -> None:
    reply = store_reply(store, "Hello.")
    made_by = store.provenance(reply.id)
    assert made_by is not None
    store.save_provenance(
        reply.id,
        dataclasses.replace(
            made_by,
            prompt_hash="00",
            plugin_processors=("louder",),
            weights="int8 (fast)",
            kv_cache="8-bit",
        ),
    )
    engine = ScriptedEngine("Hello.", context=100)
    engine.info = dataclasses.replace(engine.info, model="other", versions={"torch": "9"})
    again = replayed(store, engine, reply, adapter="poet")
    assert again.same_text
    assert not again.same_prompt
    assert again.mismatches == (
        "model: scripted → other",
        "adapter: none → poet",
        "weights: 8-bit → none",
        "KV cache: 8-bit → not rounded",
        "context: 4096 → 100",
        "torch: none → 9",
        "prompt: different tokens",
        "louder: added by a plugin; not applied in the replay",
    )
    assert engine.requests[0].adapter == "poet"


def stopped(store: Store, text: str, words: int) -> Reply:
    session = chat(store, ScriptedEngine(text))
    with closing(session.send("Hi")) as events:
        deltas = (event for event in events if isinstance(event, Delta))
        for _ in range(words):
            next(deltas)
    return newest(store)


def test_a_stopped_reply_is_compared_as_far_as_it_goes(store: Store) -> None:
    reply = stopped(store, "one two three four", words=2)
    engine = ScriptedEngine("one two and on", "one too many", "one")
    again = replayed(store, engine, reply)
    assert (again.text, again.same_text, again.stop_reason) == (
        "one two",
        True,
        StopReason.CANCELLED,
    )
    again = replayed(store, engine, reply)
    assert (again.text, again.same_text) == ("one too", False)
    again = replayed(store, engine, reply)
    assert (again.text, again.same_text, again.stop_reason) == ("one", False, StopReason.END)


def test_text_that_was_held_back_counts(store: Store) -> None:
    class Holding(ScriptedEngine):
        def stream(self, request: Request) -> Any:
            yield Delta("sure", withheld=" EN")
            yield Delta(" END of it")
            yield Finished(StopReason.END, again.usage)

    again = replayed(store, ScriptedEngine("x"), store_reply(store, "x"))
    session = ChatSession(store, Holding, conversation_id=1)
    with closing(session.send("Hi")) as events:
        next(event for event in events if isinstance(event, Delta))
    reply = newest(store)
    assert reply.text == "sure EN"
    with pytest.raises(UsageError, match="no stored provenance"):
        list(replay(store, Holding(), reply.id))  # it never yields `PromptReady`
    store.save_provenance(reply.id, again.provenance)
    assert replayed(store, Holding(), reply).same_text


def test_a_continued_reply_is_replayed_from_where_it_was_continued(store: Store) -> None:
    stopped(store, "one two three", words=2)
    list(ChatSession(store, lambda: ScriptedEngine(" four"), conversation_id=1).continue_reply())
    engine = ScriptedEngine(" four")
    again = replayed(store, engine, newest(store))
    assert (again.text, again.same_text) == ("one two four", True)
    assert engine.requests[0].messages[-1] == Message("assistant", "one two")
    started = next(replay(store, ScriptedEngine(), newest(store).id))
    assert isinstance(started, ReplayStarted)
    assert started.reply_prefix == "one two"


def test_a_failed_reply_is_replayed_as_far_as_it_goes(store: Store) -> None:
    session = chat(store, ScriptedEngine(EngineError("broken")))
    with pytest.raises(EngineError):
        list(session.send("Hi"))
    again = replayed(store, ScriptedEngine("Fine."), newest(store))
    assert (again.text, again.same_text) == ("", True)
    with pytest.raises(EngineError, match="broken"):
        list(replay(store, ScriptedEngine(EngineError("broken")), newest(store).id))


def test_a_reply_without_provenance_cannot_be_replayed(store: Store) -> None:
    turn = store.add_turn(store.create_conversation().id, "Hi")
    reply = store.start_reply(turn.id, model="old")
    with pytest.raises(UsageError, match="no stored provenance") as error:
        list(replay(store, ScriptedEngine(), reply.id))
    assert "Regenerate" in error.value.hint
    with pytest.raises(StoreError):
        list(replay(store, ScriptedEngine(), 99))


def test_differences_are_found_word_by_word() -> None:
    assert diff_words("The cat sat.\nIt slept.", "The dog sat.\nIt slept well.") == [
        DiffSegment("same", "The "),
        DiffSegment("removed", "cat "),
        DiffSegment("added", "dog "),
        DiffSegment("same", "sat.\nIt "),
        DiffSegment("removed", "slept."),
        DiffSegment("added", "slept well."),
    ]
    assert diff_words("same", "same") == [DiffSegment("same", "same")]
    assert diff_words("", "") == []
    assert diff_words("", "new") == [DiffSegment("added", "new")]


words = st.lists(st.sampled_from(["a ", "b", " ", "\n", "c d ", "é"]), max_size=30).map("".join)


@given(words, words)
def test_differences_make_one_of_the_other(before: str, after: str) -> None:
    pieces = diff_words(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after
    assert all(piece.text for piece in pieces)


@pytest.mark.parametrize("words", [2, 40, 5000])
def test_differences_of_long_replies_come_at_once(words: int) -> None:
    before = " ".join(f"w{index % words}" for index in range(5000))
    after = " ".join(f"w{index * 7 % words}" for index in range(5000))
    assert diff_words(before, after)
    cost = processor_seconds(lambda: diff_words(before, after))
    assert cost < 100_000_000 * step_seconds()


def test_thoughts_are_replayed_and_compared(store: Store) -> None:
    script = (Reasoning("Two and two."), Text("It is 4."))
    reply = store_reply(store, script)
    same = replayed(store, ScriptedEngine(script), reply)
    assert (same.same_text, same.thoughts_differ) == (True, False)
    other = replayed(store, ScriptedEngine((Reasoning("Two plus two."), script[1])), reply)
    assert (other.same_text, other.thoughts_differ) == (False, True)
    assert other.reasoning == "Two plus two."
    assert [(piece.kind, piece.text) for piece in other.diff()] == [
        ("same", "Two "), ("removed", "and "), ("added", "plus "), ("same", "two.\n\nIt is 4."),
    ]  # fmt: skip
    answer = replayed(store, ScriptedEngine((script[0], Text("It is 5."))), reply)
    assert [(piece.kind, piece.text) for piece in answer.diff()] == [
        ("same", "It is "), ("removed", "4."), ("added", "5."),
    ]  # fmt: skip


def test_the_shell_shows_a_kv_cache_that_rounds(store: Store) -> None:
    reply = store_reply(store, "Hello.")
    made_by = store.provenance(reply.id)
    assert made_by is not None
    rounded = dataclasses.replace(made_by, device="cpu", weights="8-bit", kv_cache="8-bit")
    assert Provenance.from_dict(rounded.to_dict()) == rounded
    shown = {
        provenance.kv_cache: dict(_reply_facts(reply, provenance))["device"]
        for provenance in (rounded, dataclasses.replace(rounded, kv_cache=""))
    }
    assert shown == {"8-bit": "cpu, 8-bit, KV cache 8-bit", "": "cpu, 8-bit"}


def test_a_reply_with_tools_is_replayed_from_the_recorded_results(store: Store) -> None:
    ran = []

    @tool(permission="allow")
    def add(a: int) -> str:
        """Add."""
        ran.append(a)
        return str(a + 1)

    class Plugin:
        @hookimpl
        def register_tools(self, register: Any) -> None:
            register(add)

    script: tuple[ScriptedReply, ...] = (
        (Text("I add. "), ToolCall("", "add", '{"a": 1}')),
        (Text("Again. "), ToolCall("", "add", '{"a": 2}')),
        "It is 3.",
    )
    engine = ScriptedEngine(*script)
    session = ChatSession(
        store,
        lambda: engine,
        plugins=PluginHost([("adds", Plugin())]),
        tools=ToolOptions(names=("add",), choice="required"),
    )
    list(session.send("Hi"))
    reply = newest(store)
    again = replayed(store, repeating := ScriptedEngine(*script), reply)
    assert (again.same_text, again.same_prompt, again.mismatches) == (True, True, ())
    assert again.text == "I add. Again. It is 3."
    assert [each.messages for each in repeating.requests] == [
        each.messages for each in engine.requests
    ]
    assert [each.tool_choice for each in repeating.requests] == ["required", "auto", "auto"]
    assert ran == [1, 2]
    other = (script[0], (Text("Again. "), ToolCall("", "add", '{"a": 7}')), "It is 8.")
    differs = replayed(store, ScriptedEngine(*other), reply)
    assert not differs.same_text
    assert differs.mismatches[0] == ('calls of tools in step 2: add {"a": 2} → add {"a": 7}')
    assert ran == [1, 2]


class Counter:
    """A plugin whose tool counts how often it ran, and needs permission."""

    def __init__(self) -> None:
        self.runs = 0

    @hookimpl
    def register_tools(self, register: Any) -> None:
        @tool
        def roll(sides: int) -> str:
            """Roll."""
            self.runs += 1
            return f"{self.runs} of {sides}"

        register(roll)


ROLLED: tuple[ScriptedReply, ...] = (
    (Text("I roll. "), ToolCall("", "roll", '{"sides": 6}')),
    "Done.",
)


def rolled(store: Store) -> tuple[PluginHost, Counter, ScriptedEngine]:
    """Store a reply whose call was allowed."""
    counter, engine = Counter(), ScriptedEngine(*ROLLED)
    host = PluginHost([("rolls", counter)])
    tools = ToolOptions(names=("roll",), allow=("roll",))
    list(ChatSession(store, lambda: engine, plugins=host, tools=tools).send("Roll."))
    return host, counter, engine


def live_replay(
    store: Store, host: PluginHost, tools: ToolOptions, *replies: ScriptedReply, allow: bool = False
) -> tuple[list[ReplayEvent], ScriptedEngine]:
    """Replay the newest reply with its tools, and answer what is asked."""
    (header,) = store.list_conversations()
    chat = store.conversation(header.id)
    turn = chat.turns[-1]
    assert turn.reply is not None
    engine = ScriptedEngine(*replies)
    live = LiveTools(host, tools, chat, turn)
    events = []
    for event in replay(store, engine, turn.reply.id, plugins=host, live=live):
        events.append(event)
        if isinstance(event, ApprovalNeeded) and allow:
            event.answer = Approval(True)
    return events, engine


def test_live_runs_the_tools_again_and_the_model_reads_the_new_results(store: Store) -> None:
    host, counter, first = rolled(store)
    before = store.conversation(1)
    events, engine = live_replay(store, host, ToolOptions(), *ROLLED, allow=True)
    assert counter.runs == 2
    assert len([each for each in events if isinstance(each, ApprovalNeeded)]) == 1
    end = events[-1]
    assert isinstance(end, ReplayFinished)
    assert (end.text, end.same_text) == ("I roll. Done.", False)
    assert end.mismatches[0] == "result of roll in step 1: 1 of 6 → 2 of 6"
    assert engine.requests[0] == dataclasses.replace(
        first.requests[0], cache_folder=None, adapter_fixed=False
    )
    (result,) = engine.requests[1].messages[-1].parts
    assert isinstance(result, ToolResult) and result.text == "2 of 6"
    assert store.conversation(1) == before


def test_live_asks_by_the_rules_and_without_an_answer_nothing_runs(store: Store) -> None:
    host, counter, _ = rolled(store)
    events, engine = live_replay(store, host, ToolOptions(), *ROLLED)
    assert counter.runs == 1
    (result,) = engine.requests[1].messages[-1].parts
    assert isinstance(result, ToolResult) and "nobody was there" in result.text
    for rule, runs in ((ToolOptions(deny=("roll",)), 1), (ToolOptions(allow=("roll",)), 2)):
        events, _ = live_replay(store, host, rule, *ROLLED)
        assert not [each for each in events if isinstance(each, ApprovalNeeded)]
        assert counter.runs == runs


def test_live_goes_on_with_other_calls_and_to_the_limit_of_steps(store: Store) -> None:
    host, counter, _ = rolled(store)
    other = (Text("I roll. "), ToolCall("", "roll", '{"sides": 20}'))
    settings = ToolSettings(allow=("roll",), max_steps=3)
    events, _ = live_replay(store, host, ToolOptions(settings), other, other, "Never mind.")
    end = events[-1]
    assert isinstance(end, ReplayFinished)
    assert (counter.runs, end.text) == (3, "I roll. I roll. Never mind.")
    assert end.mismatches[:2] == (
        'calls of tools in step 1: roll {"sides": 6} → roll {"sides": 20}',
        'calls of tools in step 2: none → roll {"sides": 20}',
    )
    events, _ = live_replay(store, host, ToolOptions(settings), *[other] * 9)
    end = events[-1]
    assert isinstance(end, ReplayFinished)
    assert (counter.runs, end.stop_reason) == (6, StopReason.TOOL_LIMIT)
    assert "limit: 3 steps with tools" in end.mismatches


def test_live_without_the_tool_says_so(store: Store) -> None:
    rolled(store)
    events, engine = live_replay(store, PluginHost([]), ToolOptions(), *ROLLED)
    end = events[-1]
    assert isinstance(end, ReplayFinished)
    assert end.mismatches[0] == "tool roll: not there any longer"
    (result,) = engine.requests[1].messages[-1].parts
    assert isinstance(result, ToolResult) and "no such tool" in result.text


def test_live_refuses_a_reply_without_tools(store: Store) -> None:
    list(ChatSession(store, lambda: ScriptedEngine("Hello.")).send("Hi"))
    with pytest.raises(UsageError, match="had no tools"):
        live_replay(store, PluginHost([]), ToolOptions(), "Hello.")
