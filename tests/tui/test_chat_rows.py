"""A row of the chat list says how old a chat is, what wrote it and where it comes from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from chatlm.store.queries import ChatListEntry
from chatlm.store.store import Store
from chatlm.tui.chat_list.rows import age, chat_row

NOW = datetime(2026, 10, 5, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "text"),
    [
        (timedelta(seconds=-5), "now"),
        (timedelta(seconds=59), "now"),
        (timedelta(minutes=5), "5 min"),
        (timedelta(hours=3), "3 h"),
        (timedelta(days=2), "2 d"),
        (timedelta(days=15), "2 w"),
        (timedelta(days=800), "2 y"),
    ],
)
def test_ages(since: timedelta, text: str) -> None:
    assert age(NOW - since, NOW) == text


def test_the_second_line_has_age_origin_and_model() -> None:
    chat = ChatListEntry(
        1, "Plans", NOW - timedelta(hours=3), 1, False, model="org/Qwen3-4B", forked=True
    )
    row = chat_row(chat, NOW, current_id=None, answering_id=None)
    assert row.plain.split("\n") == ["  Plans", "  3 h · fork · Qwen3-4B"]


def test_tags_and_project_are_set_off_like_all_else() -> None:
    chat = ChatListEntry(1, "Plans", NOW, 1, False, tags=("home", "paint"), project="House")
    row = chat_row(chat, NOW, current_id=None, answering_id=None)
    assert row.plain.split("\n")[1] == "  now · House · #home #paint"


def test_the_store_knows_them() -> None:
    with Store(None) as store:
        asked = store.create_conversation("Asked", source="ask")
        turn = store.add_turn(asked.id, "Hi")
        store.finish_reply(store.start_reply(turn.id, model="m").id, text="Yes.", stop_reason=None)
        store.fork(asked.id, 1)
        fork, first = store.list_conversations()
        assert (first.model, first.source, first.forked) == ("m", "ask", False)
        assert (fork.model, fork.source, fork.forked) == ("m", "", True)
        assert [chat.id for chat in store.list_conversations(with_asked=False)] == [fork.id]
