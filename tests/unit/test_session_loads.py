"""A turn reads its chat from the database once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatlm import hookimpl
from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store import queries
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.events import SessionEvent, TurnFinished
from chatlm.types.messages import Annotation, Passage


class Everything:
    """Takes part in every hook of a turn."""

    def __init__(self) -> None:
        self.chats: list[Conversation] = []

    @hookimpl
    def annotate_message(self, conversation: Conversation) -> list[Annotation]:
        self.chats.append(conversation)
        return [Annotation("p", "n", "v")]

    @hookimpl
    def retrieve_passages(self) -> list[Passage]:
        return [Passage("t", "s", 1.0)]

    @hookimpl
    def turn_finished(self, conversation: Conversation, turn: Turn) -> list[Annotation]:
        self.chats.append(conversation)
        return [Annotation("p", "late", "v")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Ids of the chats that were loaded."""
    loaded: list[int] = []
    load = queries.load_conversation

    def counted(db: Any, conversation_id: int) -> Conversation:
        loaded.append(conversation_id)
        return load(db, conversation_id)

    monkeypatch.setattr(queries, "load_conversation", counted)
    yield loaded


def chat(store: Store, plugin: Everything) -> ChatSession:
    engine = ScriptedEngine(*["one two three"] * 9)
    return ChatSession(store, lambda: engine, plugins=PluginHost([("p", plugin)]))


def last(events: Iterator[SessionEvent]) -> Conversation:
    finished = list(events)[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.conversation is not None
    return finished.conversation


def test_each_kind_of_turn_loads_the_chat_once(store: Store, loads: list[int]) -> None:
    session = chat(store, Everything())
    turns: list[Callable[[], Iterator[SessionEvent]]] = [
        lambda: session.send("first"),
        lambda: session.send("next"),
        session.regenerate,
    ]
    for begin in turns:
        loads.clear()
        finished = last(begin())
        assert loads == [1]
        assert finished == store.conversation(1)
    loads.clear()
    session.preview("what if")
    session.draft("what if")
    assert loads == [1, 1]


def test_reading_ahead_and_measuring_take_the_chat_that_a_turn_ends_with(
    store: Store, loads: list[int]
) -> None:
    session = chat(store, Everything())
    finished = last(session.send("first"))
    loads.clear()
    assert len(list(session.read_ahead(finished))) == 1
    assert session.context_usage(finished) == session.context_usage()
    assert loads == [1]


def test_hooks_see_what_the_turn_has_so_far(store: Store) -> None:
    plugin = Everything()
    session = chat(store, plugin)
    list(session.send("first"))
    before, reply, finished = (seen.turns[-1] for seen in plugin.chats)
    assert (before.reply, before.annotations) == (None, ())
    assert reply.reply is not None
    assert reply.reply.text == "one two three"
    assert len(reply.annotations) == 1
    assert len(finished.annotations) == 2


def test_settings_that_change_while_the_model_loads_are_used(store: Store) -> None:
    engine = ScriptedEngine("one", "two")

    def load() -> ScriptedEngine:
        store.set_system(1, "Be brief.")
        return engine

    session = ChatSession(store, load, system="Be kind.")
    list(session.send("first"))
    assert engine.requests[0].messages[0].text == "Be brief."
