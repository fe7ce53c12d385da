"""A message is stored as it was typed before any plugin sees it, and rewritten afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from chatlm import hookimpl
from chatlm.chat.session import ChatSession
from chatlm.chat.turn_runner import SessionEvents
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import StoreError, UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.events import MessageRewritten, SessionEvent, TurnStarted, TurnWithdrawn
from chatlm.types.messages import Annotation, Message, Passage


class Rewrites:
    """Rewrites messages, or refuses those that say so; `during` is called first."""

    def __init__(self, during: Callable[[], object] = lambda: None) -> None:
        self.during = during
        self.chats: list[Conversation] = []

    @hookimpl
    def write_message(self, conversation: Conversation, text: str) -> str | UsageError:
        self.chats.append(conversation)
        self.during()
        return UsageError("Not that") if "refuse" in text else f"Translate: {text}"

    @hookimpl
    def annotate_message(self, message: Message) -> list[Annotation]:
        return [Annotation("p", "length", str(len(message.text)))]

    @hookimpl
    def retrieve_passages(self, message: Message) -> list[Passage]:
        return [Passage(message.text, "dictionary", 1.0)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


def chat(store: Store, plugin: object, chat_id: int | None = None) -> ChatSession:
    engine = ScriptedEngine(*["Bonjour"] * 5)
    host = PluginHost([("p", plugin)])
    return ChatSession(store, lambda: engine, plugins=host, conversation_id=chat_id)


def stored(store: Store) -> list[Turn]:
    """The turns of all chats."""
    chats = store.list_conversations()
    return [turn for chat in chats for turn in store.conversation(chat.id).turns]


def refused(events: SessionEvents) -> list[SessionEvent]:
    """What a turn reports before a plugin's refusal ends it."""
    seen: list[SessionEvent] = []
    with pytest.raises(UsageError, match="Not that"):
        for event in events:
            seen.append(event)
    return seen


def test_a_message_is_stored_and_reported_before_plugins_rewrite_it(store: Store) -> None:
    seen: list[list[Turn]] = []
    plugin = Rewrites(lambda: seen.append(stored(store)))
    with closing(chat(store, plugin).send("Hello")) as events:
        started = next(events)
        assert isinstance(started, TurnStarted)
        assert started.conversation.turns == (started.turn,)
        assert (started.turn.display_text, started.turn.is_raw, seen) == ("Hello", True, [])
        rewritten = next(events)
    assert isinstance(rewritten, MessageRewritten)
    ((during,),) = seen
    assert (during.display_text, during.is_raw, during.is_rewritten) == ("Hello", True, False)
    (after,) = stored(store)
    assert after.user == rewritten.turn.user
    assert (after.user.text, after.raw_input) == ("Translate: Hello", "Hello")
    assert (after.is_raw, after.is_rewritten) == (False, True)


def test_plugins_see_the_chat_before_the_message(store: Store) -> None:
    plugin = Rewrites()
    session = chat(store, plugin)
    list(session.send("One"))
    list(session.send("Two"))
    assert [len(seen.turns) for seen in plugin.chats] == [0, 1]


def test_a_message_that_no_plugin_rewrites_is_marked_no_longer(store: Store) -> None:
    class Silent:
        @hookimpl
        def write_message(self) -> None: ...

    list(chat(store, Silent()).send("Hello"))
    (turn,) = stored(store)
    assert (turn.user.text, turn.raw_input, turn.is_raw) == ("Hello", "", False)


def test_a_refused_first_message_leaves_no_chat(store: Store) -> None:
    session = chat(store, Rewrites())
    events = refused(session.send("please refuse"))
    assert [type(event) for event in events] == [TurnStarted, TurnWithdrawn]
    assert (store.list_conversations(), session.conversation_id) == ([], None)
    list(session.send("Hello"))
    assert [turn.display_text for turn in stored(store)] == ["Hello"]


def test_a_refused_message_leaves_the_chat_as_it_was(store: Store) -> None:
    session = chat(store, Rewrites())
    list(session.send("Hello"))
    before = stored(store)
    *_, last = refused(session.send("please refuse"))
    assert isinstance(last, TurnWithdrawn)
    assert last.conversation_id == session.conversation_id
    assert stored(store) == before
    list(session.send("Again"))
    assert [turn.position for turn in stored(store)] == [0, 1]


def test_a_refused_edit_leaves_no_fork(store: Store) -> None:
    session = chat(store, Rewrites())
    list(session.send("Hello"))
    original = session.conversation_id
    *_, last = refused(session.edit(0, "please refuse"))
    assert isinstance(last, TurnWithdrawn)
    assert last.conversation_id == session.conversation_id == original
    assert [each.id for each in store.list_conversations()] == [original]


def test_a_refused_message_that_cannot_be_removed_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("The disk is full")

    session = chat(store, Rewrites())
    list(session.send("Hello"))
    monkeypatch.setattr(store, "remove_turn", full)
    events = refused(session.send("please refuse"))
    assert [type(event) for event in events] == [TurnStarted]
    assert [turn.display_text for turn in stored(store)] == ["Hello", "please refuse"]


def test_a_message_with_a_ready_reply_is_rewritten_or_refused_too(store: Store) -> None:
    session = chat(store, Rewrites())
    session.add("Hello", "Bonjour")
    with pytest.raises(UsageError):
        session.add("refuse", "Non")
    texts = [message.text for message in session.request("Thanks").messages]
    assert texts[:2] == ["Translate: Hello", "Bonjour"]
    assert texts[2].endswith("Translate: Thanks")
    assert not stored(store)  # a long chat would take thousands of statements


@pytest.mark.parametrize("answer", [ChatSession.regenerate, ChatSession.continue_reply])
def test_an_interrupted_message_is_kept_and_prepared_when_it_is_retried(
    store: Store, answer: Callable[[ChatSession], SessionEvents]
) -> None:
    with closing(chat(store, Rewrites()).send("Hello")) as events:
        assert isinstance(next(events), TurnStarted)
    (turn,) = stored(store)
    assert (turn.display_text, turn.is_raw, turn.replies) == ("Hello", True, ())
    session = chat(store, Rewrites(), store.list_conversations()[0].id)
    assert not any(isinstance(event, TurnStarted) for event in answer(session))
    (turn,) = stored(store)
    assert (turn.user.text, turn.raw_input) == ("Translate: Hello", "Hello")
    assert [passage.text for passage in store.passages(turn.id)] == ["Hello"]
    assert [label.value for reply, label in turn.annotations if reply is None] == ["16"]
    assert turn.reply is not None and turn.reply.text == "Bonjour"


def test_a_refusal_on_a_retry_keeps_the_message(store: Store) -> None:
    fresh = store.create_conversation()
    store.add_turn(fresh.id, "please refuse", "please refuse")
    with pytest.raises(UsageError):
        list(chat(store, Rewrites(), fresh.id).regenerate())
    assert [turn.display_text for turn in stored(store)] == ["please refuse"]
