"""A turn from start to end over a real store, with a scripted engine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import chatlm
from chatlm.chat import reply_writer
from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import EngineError, StoreError, UsageError
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.engine import Engine
from chatlm.types.events import (
    Delta,
    Finished,
    MessageAnnotated,
    Notice,
    PassagesFound,
    Prefill,
    PromptReady,
    ReplyStarted,
    SessionEvent,
    TurnFinished,
    TurnStarted,
)
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.replies import StopReason, Usage
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from chatlm.types.setups import TextFacts


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


def chat(store: Store, engine: Engine, **more: Any) -> ChatSession:
    return ChatSession(store, lambda: engine, **more)


def newest(session: ChatSession) -> Turn:
    assert session.conversation is not None
    return session.conversation.turns[-1]


def reply_text(session: ChatSession) -> str:
    reply = newest(session).reply
    assert reply is not None
    return reply.text


def kinds(events: Sequence[SessionEvent]) -> list[str]:
    """Names of the events' classes, runs of one class once."""
    names = [type(event).__name__ for event in events]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def stop_after(session: ChatSession, words: int, send: str = "Hi") -> None:
    with closing(session.send(send)) as events:
        deltas = (event for event in events if isinstance(event, Delta))
        for _ in range(words):
            next(deltas)


def test_a_turn_is_reported_in_order_and_stored(store: Store) -> None:
    session = chat(store, ScriptedEngine("Hello you."), system="Be kind.")
    events = list(session.send("Hi"))
    assert kinds(events) == [
        "TurnStarted", "ReplyStarted", "PromptReady", "Prefill", "Delta", "Finished",
        "TurnFinished",
    ]  # fmt: skip
    turn = newest(session)
    assert turn.user == Message("user", "Hi")
    assert turn.reply is not None
    assert turn.reply.text == "Hello you."
    assert turn.reply.stop_reason is StopReason.END
    assert turn.reply.model == "scripted"
    assert turn.reply.usage.completion_tokens == 2
    assert isinstance(json.loads(turn.reply.settings)["seed"], int)
    assert session.conversation is not None
    assert session.conversation.system == "Be kind."


def test_the_message_is_on_disk_before_the_engine_is_asked_for(store: Store) -> None:
    seen: list[str] = []

    def loading() -> Engine:
        seen.extend(turn.user.text for turn in store.conversation(1).turns)
        raise EngineError("no model")

    with pytest.raises(EngineError):
        list(ChatSession(store, loading).send("Precious"))
    assert seen == ["Precious"]
    session = chat(store, ScriptedEngine("Now."), conversation_id=1)
    list(session.regenerate())
    assert reply_text(session) == "Now."


def test_history_and_system_prompt_reach_the_engine(store: Store) -> None:
    engine = ScriptedEngine("One.", "Two.")
    session = chat(store, engine, system="Be kind.", sampling=Sampling(temperature=0.3, seed=5))
    list(session.send("First"))
    list(session.send("Second"))
    assert [(m.role, m.text) for m in engine.requests[1].messages] == [
        ("system", "Be kind."),
        ("user", "First"),
        ("assistant", "One."),
        ("user", "Second"),
    ]
    assert engine.requests[1].sampling.temperature == 0.3
    assert engine.requests[1].sampling.seed == 5


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_a_blank_message_is_refused_and_makes_no_chat(store: Store, blank: str) -> None:
    with pytest.raises(UsageError):
        list(chat(store, ScriptedEngine()).send(blank))
    assert store.list_conversations() == []


def test_closing_keeps_the_partial_reply_and_continuing_extends_it(store: Store) -> None:
    engine = ScriptedEngine("one two three four", " three four")
    session = chat(store, engine)
    stop_after(session, words=2)
    reply = newest(session).reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("one two", StopReason.CANCELLED)

    events = list(session.continue_reply())
    started = next(event for event in events if isinstance(event, ReplyStarted))
    assert started.reply.text == "one two"
    assert engine.requests[1].messages[-1] == Message("assistant", "one two")
    after = newest(session)
    assert len(after.replies) == 1
    assert after.reply is not None
    assert (after.reply.text, after.reply.stop_reason) == ("one two three four", StopReason.END)
    assert after.reply.usage.completion_tokens == 4


def test_text_withheld_for_a_stop_string_is_kept_when_stopped(store: Store) -> None:
    class Holding(ScriptedEngine):
        def stream(self, request: Request) -> Any:
            yield Delta("sure", withheld=" EN")

    session = chat(store, Holding())
    stop_after(session, words=1)
    assert reply_text(session) == "sure EN"


def test_stopped_before_the_first_word(store: Store) -> None:
    session = chat(store, ScriptedEngine("never seen", "Second."))
    with closing(session.send("Hi")) as events:
        next(event for event in events if isinstance(event, Prefill))
    reply = newest(session).reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("", StopReason.CANCELLED)
    list(session.continue_reply())
    assert reply_text(session) == "Second."
    assert len(newest(session).replies) == 1


def test_a_complete_reply_is_not_continued(store: Store) -> None:
    session = chat(store, ScriptedEngine("Done."))
    list(session.send("Hi"))
    with pytest.raises(UsageError, match="is complete"):
        list(session.continue_reply())


@pytest.mark.parametrize(
    "reason", [StopReason.REFUSAL, StopReason.CONTENT_FILTER, StopReason.END, StopReason.TOOL_CALLS]
)
def test_a_reply_that_ended_without_an_answer_is_not_continued(
    store: Store, reason: StopReason
) -> None:
    session = chat(store, ScriptedEngine(reason))
    list(session.send("Hi"))
    reply = newest(session).reply
    assert reply is not None
    assert reply.stop_reason is reason.if_answered(False)
    with pytest.raises(UsageError, match=reply.stop_reason.label) as refused:
        list(session.continue_reply())
    assert "Regenerate" in refused.value.hint


def test_a_reply_of_thoughts_alone_is_empty(store: Store) -> None:
    class Thinking(ScriptedEngine):
        def stream(self, request: Request) -> Any:
            yield Delta("Hm.", part="reasoning")
            yield Finished(StopReason.END, Usage())

    session = chat(store, Thinking())
    list(session.send("Hi"))
    reply = newest(session).reply
    assert reply is not None
    assert (reply.reasoning, reply.stop_reason) == ("Hm.", StopReason.EMPTY)


def test_a_continuation_that_adds_nothing_is_complete(store: Store) -> None:
    session = chat(store, ScriptedEngine("one two three", StopReason.END))
    stop_after(session, words=2)
    list(session.continue_reply())
    reply = newest(session).reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("one two", StopReason.END)


def test_regenerating_keeps_both_versions(store: Store) -> None:
    engine = ScriptedEngine("First.", "Second.")
    session = chat(store, engine)
    list(session.send("Hi"))
    list(session.regenerate())
    turn = newest(session)
    assert [reply.text for reply in turn.replies] == ["First.", "Second."]
    assert reply_text(session) == "Second."
    assert engine.requests[1].messages == engine.requests[0].messages
    seeds = [json.loads(reply.settings)["seed"] for reply in turn.replies]
    assert seeds[0] != seeds[1]


def test_regenerating_a_greedy_reply_draws_freely(store: Store) -> None:
    engine = ScriptedEngine("First.", "Second.", "Third.")
    greedy = dataclasses.replace(engine.info.default_sampling, temperature=0.0)
    engine.info = dataclasses.replace(engine.info, default_sampling=greedy)
    session = chat(store, engine)
    list(session.send("Hi"))
    list(session.regenerate())
    session.sampling = Sampling(temperature=0.0)
    list(session.regenerate())
    assert [r.sampling.temperature for r in engine.requests] == [0.0, 0.7, 0.0]


def test_nothing_to_regenerate(store: Store) -> None:
    with pytest.raises(UsageError, match="no message"):
        list(chat(store, ScriptedEngine()).regenerate())


@pytest.mark.parametrize("failure", [EngineError("The model broke", "Try again."), KeyError("x")])
def test_a_failing_engine_leaves_the_chat_usable(store: Store, failure: Exception) -> None:
    session = chat(store, ScriptedEngine(failure, "Better."))
    with pytest.raises(EngineError):
        list(session.send("Hi"))
    reply = newest(session).reply
    assert reply is not None
    assert reply.stop_reason is StopReason.ERROR
    assert reply.error
    list(session.send("Again"))
    assert reply_text(session) == "Better."


def test_the_reply_is_journalled_while_it_grows(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_writer, "JOURNAL_SECONDS", 0.0)
    session = chat(store, ScriptedEngine("one two three"))
    events = session.send("Hi")
    for event in events:
        if isinstance(event, Delta) and event.text == " two":
            break
    with Store(tmp_path / "chats.db") as other:
        reply = other.conversation(1).turns[0].reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("one two", None)
    events.close()


def test_all_but_the_last_second_of_a_reply_is_on_disk(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(reply_writer, "time", SimpleNamespace(monotonic=lambda: now))
    session = chat(store, ScriptedEngine(" ".join(f"word{number}" for number in range(20))))
    said: list[tuple[float, str]] = []
    with Store(tmp_path / "chats.db") as other:
        for event in session.send("Hi"):
            if isinstance(event, Delta):
                said.append((now, event.text))
                reply = other.conversation(1).turns[0].reply
                assert reply is not None
                assert reply.text.startswith("".join(text for at, text in said if at <= now - 1))
                now += 0.3
    assert len(said) == 20


def test_a_full_disk_is_reported_once_and_the_reply_continues(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("The disk is full", "Free some space.")

    monkeypatch.setattr(reply_writer, "JOURNAL_SECONDS", 0.0)
    for name in ("journal_reply", "finish_reply", "save_provenance"):
        monkeypatch.setattr(store, name, full)
    session = chat(store, ScriptedEngine("one two three"))
    events = []
    for event in session.send("Hi"):
        events.append(event)
        if isinstance(event, Finished):
            monkeypatch.undo()
    assert [e.text for e in events if isinstance(e, Delta)] == ["one", " two", " three"]
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "disk is full" in notices[0]
    reply = newest(session).reply
    assert reply is not None
    assert reply.text == "one two three"
    assert store.provenance(reply.id) is not None


class Helper:
    """A plugin that uses every hook of a turn."""

    def __init__(self) -> None:
        self.finished: list[str] = []

    @hookimpl
    def annotate_message(self, message: Message) -> list[Annotation]:
        return [Annotation("helper", "length", str(len(message.text)))]

    @hookimpl
    def retrieve_passages(self, message: Message) -> list[Passage]:
        return [Passage("The sky is blue.", "sky.md", 0.9)]

    @hookimpl
    def adjust_request(self, request: Request, engine: Engine) -> Request:
        sampling = dataclasses.replace(request.sampling, temperature=0.1)
        return dataclasses.replace(request, sampling=sampling)

    @hookimpl
    def turn_finished(self, turn: Turn) -> None:
        assert turn.reply is not None
        self.finished.append(turn.reply.text)


def test_hooks_of_a_turn(store: Store) -> None:
    engine, helper = ScriptedEngine("Blue."), Helper()
    session = chat(store, engine, plugins=PluginHost([("helper", helper)]))
    events = list(session.send("Which colour?"))
    assert [e.role for e in events if isinstance(e, MessageAnnotated)] == ["user", "assistant"]
    found = next(event for event in events if isinstance(event, PassagesFound))
    assert found.passages[0].source == "sky.md"
    asked = engine.requests[0].messages[-1].text
    assert "[1] sky.md\nThe sky is blue." in asked
    assert asked.endswith("Which colour?")
    assert engine.requests[0].sampling.temperature == 0.1
    assert helper.finished == ["Blue."]
    turn = newest(session)
    assert turn.user.text == "Which colour?"
    assert [p.source for p in store.passages(turn.id)] == ["sky.md"]
    assert len(store.annotations(turn.id)) == 2


class Builder:
    @hookimpl
    def build_messages(self, conversation: Conversation, turn: Turn) -> list[Message]:
        return [Message("user", turn.user.text.upper())]


def test_a_plugin_may_build_the_messages(store: Store) -> None:
    engine = ScriptedEngine("Ok.")
    list(chat(store, engine, plugins=PluginHost([("b", Builder())])).send("loud"))
    assert engine.requests[0].messages == (Message("user", "LOUD"),)


class Broken:
    """Raises or returns nonsense in every hook."""

    @hookimpl
    def annotate_message(self) -> None:
        raise RuntimeError("no mood")

    @hookimpl
    def retrieve_passages(self) -> list[int]:
        return [1]

    @hookimpl
    def build_messages(self) -> str:
        return "not messages"

    @hookimpl
    def adjust_request(self) -> str:
        return "not a request"

    @hookimpl
    def turn_finished(self) -> None:
        raise SystemError("late")


def test_hooks_see_a_stopped_reply_too(store: Store) -> None:
    helper = Helper()
    session = chat(store, ScriptedEngine("one two three"), plugins=PluginHost([("h", helper)]))
    stop_after(session, words=2)
    assert helper.finished == ["one two"]
    assert len(store.annotations(newest(session).id)) == 2


def test_a_save_that_failed_at_the_end_is_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, failures = store.finish_reply, iter([True])

    def locked_once(*arguments: Any, **more: Any) -> Any:
        if next(failures, False):
            raise StoreError("The chats are locked", "Try again.")
        return whole(*arguments, **more)

    monkeypatch.setattr(store, "finish_reply", locked_once)
    session = chat(store, ScriptedEngine("one two"))
    list(session.send("Hi"))
    reply = newest(session).reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("one two", StopReason.END)


def test_a_reply_that_cannot_be_continued_is_unchanged(store: Store) -> None:
    session = chat(store, ScriptedEngine("one two three", EngineError("no room")))
    stop_after(session, words=2)
    before = newest(session).reply
    assert before is not None
    made_by = store.provenance(before.id)
    with pytest.raises(EngineError):
        list(session.continue_reply())
    assert newest(session).reply == before
    assert store.provenance(before.id) == made_by is not None


def test_a_continuation_stopped_before_its_first_token_changes_nothing(store: Store) -> None:
    session = chat(
        store, ScriptedEngine("one two three", "more"), session_sampling=Sampling(max_tokens=2)
    )
    list(session.send("Hi"))
    before = newest(session).reply
    assert before is not None
    assert before.stop_reason is StopReason.LENGTH
    made_by = store.provenance(before.id)
    with closing(session.continue_reply()) as events:
        next(event for event in events if isinstance(event, PromptReady))
        growing = newest(session).reply
        assert growing is not None
        assert growing.stop_reason is None
    assert newest(session).reply == before
    assert store.provenance(before.id) == made_by is not None


def test_a_message_that_cannot_be_stored_leaves_no_empty_chat(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("The disk is full", "Free some space.")

    monkeypatch.setattr(store, "add_turn", full)
    session = chat(store, ScriptedEngine())
    with pytest.raises(StoreError):
        list(session.send("Hi"))
    assert store.list_conversations() == []
    assert session.conversation_id is None


def test_a_broken_plugin_breaks_nothing_else(store: Store) -> None:
    plugins = PluginHost([("helper", Helper()), ("broken", Broken())])
    session = chat(store, ScriptedEngine("Still here."), plugins=plugins)
    events = list(session.send("Hi"))
    assert isinstance(events[0], TurnStarted)
    assert isinstance(events[-1], TurnFinished)
    assert reply_text(session) == "Still here."
    notices = " ".join(event.text for event in events if isinstance(event, Notice))
    for hook in ("annotate_message", "retrieve_passages", "build_messages", "adjust_request"):
        assert f"broken failed in {hook}" in notices
    assert "turn_finished: SystemError: late" in notices
    assert any(isinstance(e, PassagesFound) for e in events)


def test_an_incognito_chat_touches_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = chat(Store(None), ScriptedEngine("Secret."))
    list(session.send("Hi"))
    assert reply_text(session) == "Secret."
    assert list(tmp_path.rglob("*")) == []


def test_reading_ahead_stores_nothing(store: Store) -> None:
    engine = ScriptedEngine("Hello.")
    session = chat(store, engine)
    assert list(session.read_ahead()) == []
    list(session.send("Hi"))
    before = session.conversation
    assert len(list(session.read_ahead())) == 1
    assert session.conversation == before


def test_only_a_saved_chat_has_a_place_for_its_kv_cache(tmp_path: Path) -> None:
    with Store(tmp_path / "chats.db") as saved, Store(None) as incognito:
        for store, expected in ((saved, tmp_path / "caches" / "1"), (incognito, None)):
            engine = ScriptedEngine("Hello.")
            session = chat(store, engine)
            list(session.send("Hi"))
            list(session.read_ahead())
            asked = [*engine.requests, *engine.read_ahead_requests]
            assert [request.cache_folder for request in asked] == [expected, expected]


def test_finished_is_stored_before_it_is_reported(store: Store) -> None:
    session = chat(store, ScriptedEngine("Done."))
    for event in session.send("Hi"):
        if isinstance(event, Finished):
            reply = newest(session).reply
            assert reply is not None
            assert reply.stop_reason is StopReason.END


def test_the_chats_own_settings_override_the_global_ones(store: Store) -> None:
    engine = ScriptedEngine()
    session = chat(store, engine, sampling=Sampling(temperature=0.3, top_k=5, seed=1))
    list(session.send("Hi"))
    assert session.conversation_id is not None
    store.set_sampling(session.conversation_id, Sampling(temperature=0.9))
    list(session.send("Again"))
    session.session_sampling = Sampling(temperature=0.1)
    list(session.send("Once"))
    list(session.read_ahead())
    asked = [request.sampling for request in (*engine.requests, *engine.read_ahead_requests)]
    assert [sampling.temperature for sampling in asked] == [0.3, 0.9, 0.1, 0.1]
    assert {sampling.top_k for sampling in asked} == {5}


def louder(ids: Any, scores: Any) -> Any:
    return scores


class Adds:
    """A plugin with a processor and a criterion."""

    @hookimpl
    def adjust_request(self, request: Request) -> Request:
        return dataclasses.replace(
            request, logits_processors=(louder,), stopping_criteria=(Adds.enough,)
        )

    @staticmethod
    def enough(ids: Any, scores: Any) -> bool:
        return False


def test_provenance_is_stored_with_a_reply(store: Store) -> None:
    engine = ScriptedEngine("Hello you.")
    engine.info = dataclasses.replace(engine.info, versions={"torch": "2"})
    session = chat(store, engine, plugins=PluginHost([("adds", Adds())]), system="Be kind.")
    list(session.send("Hi"))
    reply = newest(session).reply
    assert reply is not None
    made_by = store.provenance(reply.id)
    assert made_by is not None
    request = engine.requests[0]
    assert (made_by.messages, made_by.sampling) == (request.messages, request.sampling)
    assert made_by.sampling.seed is not None
    left_open = {name for name, value in made_by.sampling.settings().items() if value is None}
    assert left_open == {"schema", "grammar", "method"}
    assert (made_by.model, made_by.weights, made_by.context_length) == ("scripted", "none", 4096)
    assert made_by.prompt_hash == engine.preview(request).hash
    assert made_by.versions == {"chatlm": chatlm.__version__, "torch": "2"}
    assert made_by.plugin_processors == ("louder", "enough")


@pytest.mark.parametrize("until", [PromptReady, Delta])
def test_provenance_of_a_stopped_reply_is_stored(store: Store, until: type) -> None:
    session = chat(store, ScriptedEngine("one two"))
    with closing(session.send("Hi")) as events:
        next(event for event in events if isinstance(event, until))
    reply = newest(session).reply
    assert reply is not None
    assert store.provenance(reply.id) is not None


def test_the_first_token_does_not_wait_for_the_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_writer, "JOURNAL_SECONDS", 0.0)
    written: list[str] = []
    for name in ("save_provenance", "journal_reply"):
        monkeypatch.setattr(store, name, lambda *_, name=name: written.append(name))
    session = chat(store, ScriptedEngine("one two three"))
    with closing(session.send("Hi")) as events:
        deltas = (event for event in events if isinstance(event, Delta))
        next(deltas)
        assert written == []
        next(deltas)
        assert written == ["journal_reply", "save_provenance"]
        next(deltas)
        assert written == ["journal_reply", "save_provenance", "journal_reply"]


def test_a_continued_reply_stores_where_it_was_continued(store: Store) -> None:
    session = chat(store, ScriptedEngine("one two three", " four"))
    stop_after(session, words=2)
    list(session.continue_reply())
    reply = newest(session).reply
    assert reply is not None
    made_by = store.provenance(reply.id)
    assert made_by is not None
    assert made_by.messages[-1] == Message("assistant", "one two")


def test_a_reply_whose_provenance_cannot_be_stored_continues(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("The disk is full", "Free some space.")

    monkeypatch.setattr(store, "save_provenance", full)
    session = chat(store, ScriptedEngine("Still here."))
    notices = [event.text for event in session.send("Hi") if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "cannot be replayed" in notices[0]
    assert "disk is full" in notices[0]
    assert reply_text(session) == "Still here."


def everything(store: Store) -> list[Conversation]:
    return [store.conversation(summary.id) for summary in store.list_conversations()]


def test_editing_continues_in_a_fork(store: Store) -> None:
    engine = ScriptedEngine("One.", "Two.", "Other.")
    session = chat(store, engine)
    list(session.send("First"))
    list(session.send("Second"))
    original = session.conversation
    assert original is not None
    events = list(session.edit(1, "Another"))
    fork = session.conversation
    assert isinstance(events[0], TurnStarted)
    assert fork is not None
    assert events[0].conversation.id == fork.id != original.id
    assert fork.forked_from == original.id
    assert [turn.user.text for turn in fork.turns] == ["First", "Another"]
    assert [m.text for m in engine.requests[2].messages] == ["First", "One.", "Another"]
    assert store.conversation(original.id) == original


def test_the_first_message_can_be_edited(store: Store) -> None:
    session = chat(store, ScriptedEngine("One.", "Other."), system="Be kind.")
    list(session.send("First"))
    list(session.edit(0, "Another"))
    assert session.conversation is not None
    assert [turn.user.text for turn in session.conversation.turns] == ["Another"]
    assert session.conversation.system == "Be kind."


@pytest.mark.parametrize(("position", "text"), [(0, "  "), (1, "x"), (-1, "x")])
def test_an_edit_that_makes_no_sense_changes_nothing(
    store: Store, position: int, text: str
) -> None:
    session = chat(store, ScriptedEngine("One."))
    list(session.send("First"))
    before = everything(store)
    with pytest.raises(UsageError):
        list(session.edit(position, text))
    assert (everything(store), session.conversation_id) == (before, before[0].id)


def test_an_edit_that_cannot_be_stored_leaves_no_fork(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("The disk is full", "Free some space.")

    session = chat(store, ScriptedEngine("One."))
    list(session.send("First"))
    before = everything(store)
    monkeypatch.setattr(store, "add_turn", full)
    with pytest.raises(StoreError):
        list(session.edit(0, "Another"))
    assert (everything(store), session.conversation_id) == (before, before[0].id)


class Writes:
    """A plugin that rewrites the typed text."""

    @hookimpl
    def write_message(self, text: str) -> str:
        return f"Translate: {text}"

    @hookimpl
    def retrieve_passages(self, message: Message) -> list[Passage]:
        return [Passage(message.text, "dictionary", 1.0)]


def test_a_plugin_writes_the_message_and_the_typed_words_are_kept() -> None:
    store = Store(None)
    engine = ScriptedEngine("Bonjour")
    session = ChatSession(store, lambda: engine, plugins=PluginHost([("writes", Writes())]))
    list(session.send("Hello"))
    (turn,) = store.conversation(session.conversation_id or 0).turns
    assert (turn.user.text, turn.raw_input) == ("Translate: Hello", "Hello")
    assert store.passages(turn.id) == [Passage("Hello", "dictionary", 1.0)]
    assert engine.requests[-1].messages[-1].text.endswith("Translate: Hello")


class Knowing:
    """Knows something of the words, and labels the message when the reply has ended."""

    def __init__(self, facts: Any = None) -> None:
        self.facts = {"tone": "loud"} if facts is None else facts
        self.asked = 0

    @hookimpl
    def describe_text(self, text: str) -> Any:
        self.asked += 1
        return self.facts

    @hookimpl
    def turn_finished(self, turn: Turn) -> list[Annotation]:
        return [Annotation("knowing", "late", turn.user.text, icon="!")]


class Writing:
    """Makes the message of the words and a fact."""

    @hookimpl
    def write_message(self, text: str, facts: TextFacts) -> str | None:
        return f"{text} ({facts().get('tone', 'no tone')})" if text != "plain" else None


def test_describe_text_is_called_when_a_message_needs_it(store: Store) -> None:
    knowing, other = Knowing(), Knowing({"tone": "other", "more": "x"})
    host = PluginHost([("late", other), ("knowing", knowing), ("writing", Writing())])
    session = chat(store, ScriptedEngine("a", "b"), plugins=host)
    list(session.send("plain"))
    assert knowing.asked == 0
    list(session.send("hey"))
    assert newest(session).user.text == "hey (loud)"
    assert (knowing.asked, other.asked, host.all_faults) == (1, 1, [])


@pytest.mark.parametrize("facts", [[1], {"tone": 3}, {1: "x"}, "tone"])
def test_facts_that_are_no_texts_are_the_plugins_fault(store: Store, facts: Any) -> None:
    host = PluginHost([("knowing", Knowing(facts)), ("writing", Writing())])
    session = chat(store, ScriptedEngine("a"), plugins=host)
    list(session.send("hey"))
    assert newest(session).user.text == "hey (no tone)"
    assert [(fault.plugin, fault.hook) for fault in host.all_faults] == [
        ("knowing", "describe_text")
    ]


def test_labels_of_turn_finished_are_on_the_message(store: Store) -> None:
    host = PluginHost([("knowing", Knowing())])
    session = chat(store, ScriptedEngine("a"), plugins=host)
    events = list(session.send("hey"))
    label = (None, Annotation("knowing", "late", "hey", None, "!"))
    assert newest(session).annotations == (label,)
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.turn.annotations == (label,)
