"""A reply that a plugin begins, or provides as a whole."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import pytest

from chatlm.chat.replay import ReplayFinished, replay
from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import UsageError
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.types.events import Delta
from chatlm.types.messages import Message
from chatlm.types.replies import Reply, StopReason, Usage
from chatlm.types.requests import Request


class Beginning:
    def __init__(self, text: str, *, complete: bool = False) -> None:
        self.text, self.complete = text, complete

    @hookimpl
    def adjust_request(self, request: Request) -> Request | None:
        if request.messages[-1].role == "assistant":
            return None
        messages = request.messages
        if self.text:
            messages = (*messages, Message("assistant", self.text))
        return dataclasses.replace(request, messages=messages, reply_complete=self.complete)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


def chat(store: Store, engine: ScriptedEngine, plugin: Beginning) -> ChatSession:
    return ChatSession(store, lambda: engine, plugins=PluginHost([("b", plugin)]))


def newest(store: Store) -> Reply:
    reply = store.conversation(1).turns[-1].reply
    assert reply is not None
    return reply


def test_what_a_plugin_began_is_part_of_the_reply_and_is_replayed(store: Store) -> None:
    engine = ScriptedEngine("two three", "two three")
    list(chat(store, engine, Beginning("One ")).send("Count"))
    assert newest(store).text == "One two three"
    assert newest(store).model == "scripted"
    last = list(replay(store, engine, newest(store).id))[-1]
    assert isinstance(last, ReplayFinished)
    assert last.same_text


def test_a_continued_reply_has_its_beginning_once(store: Store) -> None:
    engine = ScriptedEngine("two three", "four")
    session = chat(store, engine, Beginning("One "))
    with closing(session.send("Count")) as events:
        for event in events:
            if isinstance(event, Delta) and event.text == "two":
                break
    assert newest(store).text == "One two"
    list(session.continue_reply())
    assert engine.requests[-1].messages[-1] == Message("assistant", "One two")
    assert newest(store).text == "One twofour"


def test_a_complete_reply_needs_no_engine(store: Store) -> None:
    engine = ScriptedEngine("Never said.")
    session = chat(store, engine, Beginning("All of it.", complete=True))
    list(session.send("Well?"))
    reply = newest(store)
    assert (reply.text, reply.stop_reason) == ("All of it.", StopReason.END)
    assert (reply.model, reply.plugin) == ("plugin:b", "b")
    assert reply.usage == Usage(completion_tokens=3)
    assert engine.requests == []
    with pytest.raises(UsageError, match="complete"):
        list(session.continue_reply())


def test_a_replay_asks_the_model_what_a_plugin_answered(store: Store) -> None:
    engine = ScriptedEngine("Mine.")
    list(chat(store, engine, Beginning("All of it.", complete=True)).send("Well?"))
    kept = store.provenance(newest(store).id)
    assert kept is not None
    assert (kept.model, kept.messages) == ("", (Message("user", "Well?"),))
    last = list(replay(store, engine, newest(store).id))[-1]
    assert isinstance(last, ReplayFinished)
    assert (last.original.text, last.text, last.same_text) == ("All of it.", "Mine.", False)
    assert last.mismatches == ("model: none (reply written by a plugin) → scripted",)
    assert engine.requests[0].messages == kept.messages
    assert newest(store).text == "All of it."


def test_complete_without_a_reply_is_the_plugins_fault(store: Store) -> None:
    session = chat(store, ScriptedEngine("Mine."), Beginning("", complete=True))
    list(session.send("Well?"))
    assert newest(store).text == "Mine."
    assert "complete request without a reply" in str(session.plugins.all_faults[0])
