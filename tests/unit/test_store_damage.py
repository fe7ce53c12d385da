"""A value that another program wrote into the database: its chat opens or says what is wrong, and
the other chats are there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chatlm.cli.main import cli
from chatlm.errors import StoreError
from chatlm.store.queries import DAMAGED_TITLE
from chatlm.store.store import Store
from chatlm.types.parts import Reasoning, Text
from chatlm.types.replies import ReplyStep, StopReason


@pytest.fixture
def damage(home: Path) -> Callable[..., Path]:
    """Two chats; returns a function that runs SQL on the first and returns the database."""
    home.mkdir()
    path = home / "chats.db"
    with Store(path) as store:
        for title in ("First", "Second"):
            turn = store.add_turn(store.create_conversation(title).id, f"{title} question")
            reply = store.start_reply(turn.id, model="m")
            store.finish_reply(reply.id, text=f"{title} answer", stop_reason=StopReason.END)

    def run(statement: str, *values: Any) -> Path:
        with sqlite3.connect(path) as database:
            database.execute(statement, values)
        database.close()
        return path

    return run


def test_an_unknown_stop_reason_is_shown_with_the_reply(damage: Callable[..., Path]) -> None:
    with Store(damage("UPDATE reply SET stop_reason = 'zapped' WHERE id = 1")) as store:
        reply = store.conversation(1).turns[0].replies[0]
    assert (reply.text, reply.stop_reason) == ("First answer", StopReason.ERROR)
    assert reply.error is not None
    assert "The stop reason 'zapped' is unknown" in reply.error
    shown = CliRunner().invoke(cli, ["chats", "show", "1"])
    assert "First answer" in shown.stdout
    assert "zapped" in shown.stdout


def test_an_unknown_stop_reason_of_a_step_is_shown_too(damage: Callable[..., Path]) -> None:
    path = damage("SELECT 1")
    with Store(path) as store:
        steps = [ReplyStep((Reasoning("Hm."), Text("So.")), StopReason.END)]
        store.finish_reply(1, steps=steps)
    damage("UPDATE reply SET steps = replace(steps, '\"end\"', '\"zapped\"') WHERE id = 1")
    with Store(path) as store:
        reply = store.conversation(1).turns[0].replies[0]
    assert (reply.reasoning, reply.text) == ("Hm.", "So.")
    assert "zapped" in (reply.error or "")


def test_an_unknown_context_policy_is_named(damage: Callable[..., Path]) -> None:
    path = damage("UPDATE turn SET standing = 'sitting' WHERE id = 1")
    with Store(path) as store, pytest.raises(StoreError, match="'sitting' of turn 1 is unknown"):
        store.conversation(1)


@pytest.mark.parametrize(
    "column",
    [
        "conversation.title",
        "conversation.system",
        "turn.content",
        "turn.typed",
        "turn.summary",
        "reply.text",
        "reply.model",
        "reply.adapter",
        "reply.settings",
        "reply.error",
    ],
)
@pytest.mark.parametrize("value", [b"bytes \xff", 17], ids=["bytes", "number"])
def test_another_type_in_place_of_a_text_is_read_as_text(
    damage: Callable[..., Path], column: str, value: Any
) -> None:
    table, name = column.split(".")
    path = damage(f"UPDATE {table} SET {name} = ? WHERE id = 1", value)
    with Store(path) as store:
        assert len(store.list_conversations()) == 2
        assert store.recent_inputs()
        chat = store.conversation(1)
        assert isinstance(store.title(1), str)
        for query in ("first", "second", "byt"):
            store.search(query)
        assert [hit.conversation_id for hit in store.search("Second answer")] == [2]
    assert all(isinstance(turn.display_text, str) for turn in chat.turns)
    for command in (["list"], ["show", "1"], ["export", "1"], ["search", "second"]):
        assert CliRunner().invoke(cli, ["chats", *command]).exception is None


def test_text_that_is_not_utf_8_is_shown_as_far_as_it_can_be(damage: Callable[..., Path]) -> None:
    path = damage("UPDATE conversation SET title = CAST(x'6869ff' AS TEXT) WHERE id = 1")
    with Store(path) as store:
        assert {chat.title for chat in store.list_conversations()} == {"hi\ufffd", "Second"}


@pytest.mark.parametrize("value", ["yesterday", b"\xff", 3])
def test_a_damaged_time_hides_no_other_chat(damage: Callable[..., Path], value: Any) -> None:
    path = damage("UPDATE conversation SET updated = ? WHERE id = 1", value)
    with Store(path) as store:
        assert {chat.title for chat in store.list_conversations()} == {DAMAGED_TITLE, "Second"}
        assert store.conversation(2).title == "Second"
        with pytest.raises(StoreError, match="A time among the saved chats is damaged"):
            store.conversation(1)
    assert "Second" in CliRunner().invoke(cli, ["chats", "list"]).stdout


def test_a_damaged_time_of_a_deletion_hides_no_other_chat(damage: Callable[..., Path]) -> None:
    path = damage("UPDATE conversation SET trashed = 'now'")
    damage("UPDATE conversation SET trashed = updated WHERE id = 2")
    with Store(path) as store:
        assert {chat.title for chat in store.list_trash()} == {DAMAGED_TITLE, "Second"}


def test_an_export_of_all_chats_leaves_out_a_damaged_one_and_fails(
    damage: Callable[..., Path],
) -> None:
    damage("UPDATE turn SET standing = 'sitting' WHERE id = 1")
    exported = CliRunner().invoke(cli, ["chats", "export", "--all"])
    assert exported.exit_code == 1
    assert "Second answer" in exported.stdout
    assert "Chat 1 is not exported. The context policy 'sitting'" in exported.stderr
    one = CliRunner().invoke(cli, ["chats", "export", "1"])
    assert isinstance(one.exception, StoreError)
