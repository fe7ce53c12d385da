"""Side operations of a session: previews, context usage, summaries."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ContextTooLong, EngineError, UsageError
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.types.conversations import SUMMARY_PREFIX, ContextPolicy, Conversation, Turn
from chatlm.types.engine import Engine
from chatlm.types.events import PassagesFound
from chatlm.types.messages import Message, Passage
from chatlm.types.replies import StopReason
from chatlm.types.requests import Prompt, PromptToken, Request
from chatlm.types.sampling import DEFAULT_SAMPLING, Sampling, effective_sampling


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


def chat(store: Store, engine: Engine, **more: Any) -> ChatSession:
    return ChatSession(store, lambda: engine, **more)


def talk(session: ChatSession, *messages: str) -> Conversation:
    for message in messages:
        list(session.send(message))
    assert session.conversation is not None
    return session.conversation


class Helper:
    @hookimpl
    def retrieve_passages(self, conversation: Conversation, message: Message) -> list[Passage]:
        assert conversation.turns[-1].user == message
        return [Passage("The sky is blue.", "sky.md", 0.9)]

    @hookimpl
    def adjust_request(self, request: Request) -> Request:
        sampling = dataclasses.replace(request.sampling, temperature=0.1)
        return dataclasses.replace(request, sampling=sampling)


@pytest.mark.parametrize("earlier", [(), ("First",)])
def test_the_preview_is_what_is_sent_next(store: Store, earlier: tuple[str, ...]) -> None:
    engine = ScriptedEngine(*["A reply."] * 3)
    plugins = PluginHost([("helper", Helper())])
    session = chat(store, engine, plugins=plugins, system="Be kind.", sampling=Sampling(seed=4))
    if earlier:
        talk(session, *earlier)
    before = [store.conversation(summary.id) for summary in store.list_conversations()]
    preview = session.preview("Which colour?")
    assert [store.conversation(summary.id) for summary in store.list_conversations()] == before
    events = list(session.send("Which colour?"))
    assert preview.request == engine.requests[-1]
    assert preview.request.sampling.temperature == 0.1
    assert preview.prompt == engine.preview(engine.requests[-1])
    assert PassagesFound(preview.passages) in events


def test_a_blank_preview_is_of_the_newest_turn(store: Store) -> None:
    engine = ScriptedEngine("One.", "Two.")
    session = chat(
        store, engine, plugins=PluginHost([("helper", Helper())]), sampling=Sampling(seed=4)
    )
    with pytest.raises(UsageError, match="no message"):
        session.preview(" ")
    talk(session, "First", "Second")
    preview = session.preview("")
    assert preview.request == engine.requests[1]
    assert [passage.source for passage in preview.passages] == ["sky.md"]


def test_measure_counts_each_turn_by_its_policy(store: Store) -> None:
    engine = ScriptedEngine(*["one two three"] * 4)
    session = chat(store, engine, system="Be kind.", sampling=Sampling(max_tokens=10))
    assert session.context_usage().turn_tokens == {}
    assert session.context_usage().system_tokens == 4
    turns = talk(session, "a b", "c d e f", "g", "h").turns
    store.set_context_policy(turns[1].id, ContextPolicy.DROPPED)
    store.set_context_policy(turns[2].id, ContextPolicy.SUMMARISED, "short")
    measure = session.context_usage()
    summary = len(f"{SUMMARY_PREFIX}short".split()) + 2
    assert measure.turn_tokens == {
        turns[0].id: 4 + 5,
        turns[1].id: 0,
        turns[2].id: summary,
        turns[3].id: 3 + 5,
    }
    assert measure.used_tokens == measure.system_tokens + sum(measure.turn_tokens.values())
    assert (measure.omitted_turns, measure.context_length, measure.reply_reserve) == (
        frozenset(),
        4096,
        10,
    )


def test_measure_reports_the_system_prompt_of_the_models_own_format(store: Store) -> None:
    """A format that writes five tokens before a first message that is none of the system."""

    class Opinionated(ScriptedEngine):
        def preview(self, request: Request) -> Prompt:
            prompt = super().preview(request)
            if request.messages[0].role == "system":
                return prompt
            own = tuple(PromptToken(number, "own") for number in range(5))
            costs = (prompt.message_tokens[0] + len(own), *prompt.message_tokens[1:])
            return dataclasses.replace(prompt, tokens=own + prompt.tokens, message_tokens=costs)

    session = chat(store, Opinionated("one two three"))
    assert session.context_usage().system_tokens == 5
    turns = talk(session, "a b").turns
    measure = session.context_usage()
    assert (measure.system_tokens, measure.turn_tokens) == (5, {turns[0].id: 4 + 5})
    assert measure.used_tokens == 5 + 4 + 5


def test_measure_reports_what_does_not_fit(store: Store) -> None:
    engine = ScriptedEngine(*["one two three"] * 4, context=40)
    session = chat(store, engine, system="Be kind.", sampling=Sampling(max_tokens=5))
    turns = talk(session, *["a b c"] * 4).turns
    assert session.context_usage().omitted_turns == {turns[0].id}
    store.set_context_policy(turns[0].id, ContextPolicy.PINNED)
    measure = session.context_usage()
    assert measure.omitted_turns == {turns[1].id}
    assert measure.used_tokens == 4 + 3 * 10


def test_measure_works_where_too_much_is_pinned(store: Store) -> None:
    engine = ScriptedEngine(*["one two three"] * 4, context=40)
    session = chat(store, engine, system="Be kind.")
    turns = talk(session, *["a b c"] * 4).turns
    for turn in turns[1:3]:
        store.set_context_policy(turn.id, ContextPolicy.PINNED)
    store.set_context_policy(turns[3].id, ContextPolicy.SUMMARISED, "word " * 15)
    measure = session.context_usage()
    assert measure.omitted_turns == {turns[0].id}
    assert (
        measure.used_tokens
        == 4 + sum(measure.turn_tokens[turn.id] for turn in turns[1:])
        > measure.context_length
    )
    talk_too_long = chat(store, ScriptedEngine(context=10), conversation_id=session.conversation_id)
    with pytest.raises(ContextTooLong):
        talk_too_long.context_usage()


def summarised(session: ChatSession, turn: Turn) -> str:
    return "".join(session.summarise(turn.id))


def test_a_summary_replaces_its_turn(store: Store) -> None:
    engine = ScriptedEngine("Blue, because of scattering.", "\nThe sky is blue. ", "Ok.")
    session = chat(store, engine)
    turn = talk(session, "Why is the sky blue?").turns[0]
    assert summarised(session, turn).strip() == "The sky is blue."
    turn = store.turn(turn.id)
    assert (turn.context_policy, turn.summary) == (ContextPolicy.SUMMARISED, "The sky is blue.")
    asked = engine.requests[1]
    assert "Why is the sky blue?" in asked.messages[-1].text
    assert "scattering" in asked.messages[-1].text
    assert asked.sampling.stop == ("\n\n",)
    talk(session, "Next")
    assert engine.requests[2].messages[0].text == f"{SUMMARY_PREFIX}The sky is blue."


def test_a_cancelled_or_blank_summary_changes_nothing(store: Store) -> None:
    engine = ScriptedEngine("Blue.", "The sky is blue.", " \n", StopReason.END, "")
    session = chat(store, engine)
    turn = talk(session, "Why is the sky blue?").turns[0]
    with closing(session.summarise(turn.id)) as pieces:
        next(pieces)
    assert store.turn(turn.id) == turn
    for _ in range(3):
        with pytest.raises(EngineError, match="empty reply"):
            summarised(session, turn)
    assert store.turn(turn.id) == turn


def test_a_turn_without_reply_has_no_summary(store: Store) -> None:
    session = chat(store, ScriptedEngine(StopReason.CANCELLED))
    turn = talk(session, "Hi").turns[0]
    with pytest.raises(UsageError, match="no reply"):
        summarised(session, turn)


def test_a_summary_of_a_turn_longer_than_the_context(store: Store) -> None:
    talker = ScriptedEngine("word " * 900, context=4096)
    session = chat(store, talker)
    turn = talk(session, f"begin {'of it ' * 800} end").turns[0]
    narrow = ScriptedEngine("Many words.", context=200)
    session.get_engine = lambda: narrow
    assert summarised(session, turn) == "Many words."
    asked = narrow.requests[0].messages
    assert narrow.count_tokens(asked) <= 200 - 96
    assert "User: begin" in asked[-1].text
    assert "end\n\nAssistant: word" in asked[-1].text


def test_where_each_setting_comes_from() -> None:
    here, config = Sampling(temperature=0.2), Sampling(temperature=0.5, stop=("END",))
    layers = [("this chat", here), ("config", config), ("default", DEFAULT_SAMPLING)]
    found = {one.name: (one.value, one.source) for one in effective_sampling(layers)}
    assert list(found) == [field.name for field in dataclasses.fields(Sampling)]
    assert found["temperature"] == (0.2, "this chat")
    assert found["stop"] == (("END",), "config")
    assert found["top_p"] == (0.95, "default")
    assert found["seed"] == (None, "")
    assert {one.name: one.value for one in effective_sampling([])}["stop"] == ()
    merged = here.with_fallback(config).with_fallback(DEFAULT_SAMPLING)
    assert {name: value for name, (value, _) in found.items()} == dataclasses.asdict(merged)
