"""Passages for a turn: the hooks that receive them, and how they and labels are stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from chatlm import Annotation, Message, Passage, Request, Turn, hookimpl
from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ContextTooLong, StoreError
from chatlm.plugin_host.host import PluginHost
from chatlm.store import export
from chatlm.store.importing.chatlm_jsonl import parse_chatlm
from chatlm.store.importing.fields import InvalidChat
from chatlm.store.store import Store

SKY = Passage("The sky is blue.", "sky.md", 0.9, {"line": 3, "ranks": [1, 2.5], "of": {"a": None}})


class Finder:
    """Finds one passage and records the passages that each hook received."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Sequence[Passage]]] = []

    @hookimpl
    def retrieve_passages(self) -> list[Passage]:
        return [SKY]

    @hookimpl
    def annotate_message(self, message: Message, passages: Sequence[Passage]) -> list[Annotation]:
        self.got.append((f"annotate {message.role}", list(passages)))
        return [Annotation("finder", "role", message.role, 0.5)]

    @hookimpl
    def build_messages(self, turn: Turn, passages: Sequence[Passage]) -> None:
        self.got.append(("build", list(passages)))

    @hookimpl
    def adjust_request(self, request: Request, passages: Sequence[Passage]) -> None:
        self.got.append(("adjust", list(passages)))

    @hookimpl
    def turn_finished(self, turn: Turn) -> None:
        self.got.append((f"finished with {len(turn.annotations)} labels", []))


def asked(store: Store, finder: Finder) -> ChatSession:
    session = ChatSession(
        store, lambda: ScriptedEngine("Blue.", "Grey."), plugins=PluginHost([("finder", finder)])
    )
    list(session.send("Which colour?"))
    return session


def test_hooks_get_what_was_found_and_the_turn_has_its_labels() -> None:
    finder = Finder()
    with Store(None) as store:
        session = asked(store, finder)
        list(session.regenerate())
        assert session.conversation is not None
        (turn,) = session.conversation.turns
        first, second = turn.replies
    answering = [
        ("build", [SKY]),
        ("adjust", [SKY]),
        ("annotate assistant", [SKY]),
    ]
    assert finder.got == [
        ("annotate user", []),
        *answering,
        ("finished with 2 labels", []),
        *answering,
        ("finished with 3 labels", []),
    ]
    assert [(reply, label.value) for reply, label in turn.annotations] == [
        (None, "user"),
        (first.id, "assistant"),
        (second.id, "assistant"),
    ]


def test_details_are_kept_through_a_restart_a_fork_and_an_export(tmp_path: Path) -> None:
    with Store(tmp_path / "chats.db") as store:
        asked(store, Finder())
    with Store(tmp_path / "chats.db") as store:
        chat = store.conversation(1)
        assert store.passages(chat.turns[0].id) == [SKY]
        assert store.passages(store.fork(1, 1).turns[0].id) == [SKY]
        read = parse_chatlm(export.conversation_to_dict(chat, store.passages, store.annotations))
        copy = store.add_conversation(
            read.conversation,
            lambda turn: read.passages.get(turn, ()),
            lambda turn: read.annotations.get(turn, ()),
        )
        assert store.passages(copy.turns[0].id) == [SKY]
        assert [label for _, label in copy.turns[0].annotations] == [
            label for _, label in chat.turns[0].annotations
        ]


def test_an_export_of_an_earlier_chatlm_has_no_details(tmp_path: Path) -> None:
    with Store(None) as store:
        session = asked(store, Finder())
        assert session.conversation is not None
        table = export.conversation_to_dict(session.conversation, store.passages)
    (passage,) = table["turns"][0]["passages"]
    del passage["details"]
    assert parse_chatlm(table).passages == {0: [dataclasses.replace(SKY, details={})]}
    for wrong in (5, [1], {"a": float("nan")}):
        passage["details"] = wrong
        with pytest.raises(InvalidChat, match="turn 1, passage 1, details"):
            parse_chatlm(table)


@pytest.mark.parametrize("details", [{"a": object()}, {"a": float("inf")}, {"a": {1, 2}}, 5])
def test_details_that_json_does_not_have_fail_where_they_are_made(details: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Passage("x", "y", 1.0, details)


def test_a_damaged_passage_is_reported_and_the_chat_is_whole(tmp_path: Path) -> None:
    with Store(tmp_path / "chats.db") as store:
        asked(store, Finder())
        with store._database.write_transaction() as db:
            db.execute("UPDATE passage SET details = '{'")
        with pytest.raises(StoreError, match="is damaged and cannot be read"):
            store.passages(store.conversation(1).turns[0].id)


class Flood:
    """Finds a passage that is too long for any context here."""

    @hookimpl
    def retrieve_passages(self) -> list[Passage]:
        return [Passage("word " * 900, "flood.md", 0.9)]


@pytest.fixture
def flooded() -> Iterator[ChatSession]:
    host = PluginHost([("finder", Finder()), ("flood", Flood())])
    with Store(None) as store:
        yield ChatSession(store, lambda: ScriptedEngine("Blue.", context=200), plugins=host)


def test_passages_that_do_not_fit_are_blamed_on_their_plugins(flooded: ChatSession) -> None:
    with pytest.raises(ContextTooLong) as caught:
        list(flooded.send("Which colour?"))
    said = str(caught.value)
    assert "The passages of flood and finder take about 9" in said
    assert "the context holds 200; without them the message fits" in said
    assert "leave flood out of this chat: /plugins" in said
    chat = flooded.conversation
    assert chat is not None
    reply = chat.turns[-1].reply
    assert reply is not None
    assert (reply.error or "").startswith("The passages of flood and finder")
    with pytest.raises(ContextTooLong, match="The passages of flood and finder"):
        list(flooded.regenerate())
    with pytest.raises(ContextTooLong, match="The passages of flood and finder"):
        flooded.preview("Which colour now?")


def test_a_message_that_is_too_long_itself_is_not_blamed_on_plugins(flooded: ChatSession) -> None:
    with pytest.raises(ContextTooLong, match="Your message and the system prompt take"):
        list(flooded.send("word " * 300))
