"""The chats of a file are imported once and whole, in spite of errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from chatlm.errors import StoreError
from chatlm.store import export
from chatlm.store.importing.fields import ParsedChat
from chatlm.store.importing.importer import MAX_UNREADABLE_LISTED, ImportProgress, import_file
from chatlm.store.store import Store
from chatlm.types.replies import StopReason, Usage
from tests.chats import CHATGPT, conversations

HELLO = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.jsonl"


def write(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def take(store: Store, path: Path, skip_bad: bool = False) -> ImportProgress:
    state = ImportProgress()
    for state in import_file(store, path, skip_bad=skip_bad):
        assert 0 < state.bytes_read <= state.total_bytes
    return state


def exported(store: Store) -> list[str]:
    chats = [store.conversation(chat.id) for chat in store.list_conversations()]
    return list(export.to_jsonl(chats, store.passages, store.annotations, store.provenance))


@given(conversations())
def test_a_chat_comes_out_of_one_store_and_into_another_the_same(made: ParsedChat) -> None:
    with Store(None) as first, Store(None) as second:
        chat = first.add_conversation(
            made.conversation,
            lambda turn: made.passages.get(turn, ()),
            lambda turn: made.annotations.get(turn, ()),
            made.provenance.get,
        )
        again = second.add_conversation(chat, first.passages, first.annotations, first.provenance)
        assert again == chat
        assert exported(second) == exported(first)
        assert second.find_duplicate(chat, created_known=True) == again.id


def test_the_same_file_twice_adds_nothing(store: Store, path: Path) -> None:
    write(path, CHATGPT, HELLO, HELLO)
    state = take(store, path)
    assert (len(state.added), state.already_stored, state.unreadable_count) == (3, 1, 0)
    chat, fork, hello = (store.conversation(chat_id) for chat_id in state.added)
    assert (fork.forked_from, chat.forked_from) == (chat.id, None)
    assert state.left_out == {"calls of tools": 1, "tool messages": 1, "thoughts": 1}
    assert take(store, path).already_stored == 4
    assert len(store.list_conversations()) == 3
    store.delete(fork.id)
    (back,) = take(store, path).added
    assert store.conversation(back).forked_from == chat.id
    store.trash(hello.id)
    assert len(take(store, path).added) == 1


def test_a_chat_continued_here_is_known_and_one_continued_elsewhere_is_new(
    store: Store, path: Path
) -> None:
    (chat_id,) = take(store, write(path, HELLO)).added
    turn = store.add_turn(chat_id, "more")
    store.finish_reply(
        store.start_reply(turn.id, model="m").id,
        text="yes",
        stop_reason=StopReason.END,
        usage=Usage(),
    )
    first = store.conversation(chat_id).turns[0]
    store.start_reply(first.id, model="m")
    assert take(store, path).already_stored == 1
    longer = {"messages": [*HELLO["messages"], {"role": "user", "content": "other"}]}
    other = {"messages": [HELLO["messages"][0], {"role": "assistant", "content": "b"}]}
    system = {"messages": [{"role": "system", "content": "s"}, *HELLO["messages"]]}
    assert len(take(store, write(path, longer, other, system)).added) == 3


def test_one_bad_chat_keeps_all_out_unless_it_may_be_skipped(store: Store, path: Path) -> None:
    write(path, HELLO, {}, CHATGPT)
    state = take(store, path)
    assert (state.added, state.unreadable_count, state.unreadable[0].location) == ([], 1, "line 2")
    assert store.list_conversations() == []
    state = take(store, path, skip_bad=True)
    assert (len(state.added), state.unreadable_count) == (3, 1)
    many = take(store, write(path, *[{}] * 50))
    assert (len(many.unreadable), many.unreadable_count) == (MAX_UNREADABLE_LISTED, 50)


def test_a_cancelled_import_leaves_whole_chats_and_can_be_resumed(store: Store, path: Path) -> None:
    chats = [{"messages": [{"role": "user", "content": f"q{n}"}]} for n in range(10)]
    write(path, *chats)
    checked = 0
    for state in import_file(store, path):
        checked += state.checking
        if len(state.added) == 4:
            break
    assert checked == 10
    assert len(store.list_conversations()) == 4
    state = take(store, path)
    assert (len(state.added), state.already_stored) == (6, 4)
    assert len(store.list_conversations()) == 10


def test_a_store_that_fails_leaves_the_chats_before(store: Store, path: Path) -> None:
    with store._database.write_transaction() as db:
        db.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON reply WHEN new.text = 'bad'"
            " BEGIN SELECT raise(ABORT, 'refused'); END"
        )
    bad = {"messages": [*HELLO["messages"], {"role": "user", "content": "r"}]}
    bad["messages"] += [{"role": "assistant", "content": "bad"}]
    with pytest.raises(StoreError, match="refused"):
        take(store, write(path, HELLO, bad))
    (chat,) = store.list_conversations()
    assert chat.turns == 1
