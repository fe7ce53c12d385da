"""Databases of earlier chatlms open with all that is in them."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from chatlm.store.migrations import MIGRATIONS
from chatlm.store.store import Store
from chatlm.types.conversations import ContextPolicy
from chatlm.types.messages import Annotation, Passage
from chatlm.types.replies import StopReason, Usage
from chatlm.types.sampling import Sampling
from tests.unit.test_store import check_words


def first_format(path: Path) -> None:
    """A database as the first chatlm wrote it."""
    db = sqlite3.connect(path)
    for statement in MIGRATIONS[0]:
        db.execute(statement)
    db.execute("PRAGMA user_version = 1")
    time = "2026-01-02T03:04:05.000006+00:00"
    db.execute("INSERT INTO conversation VALUES (3, 'Élan', 'Be brief.', ?, ?)", (time, time))
    db.execute("INSERT INTO conversation VALUES (4, '', '', ?, ?)", (time, time))
    db.execute("INSERT INTO turn VALUES (5, 3, 0, 'The question?', NULL, ?)", (time,))
    for number, reason in ((7, "length"), (8, None)):
        db.execute(
            "INSERT INTO reply VALUES (?, 5, ?, 'The answer', ?, NULL, 'm', 'a', '{\"seed\": 1}',"
            " 1, 2, 3, 0.5, 1.5, ?)",
            (number, number - 6, reason, time),
        )
    db.execute("UPDATE turn SET chosen = 7")
    db.execute("INSERT INTO passage VALUES (1, 5, 'text', 'source', 0.5)")
    db.execute("INSERT INTO annotation VALUES (1, 5, 7, 'p', 'n', 'v', 0.25)")
    db.commit()
    db.close()


def test_the_first_format_becomes_the_newest_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    first_format(path)
    for _ in range(2):
        with Store(path) as store:
            chat = store.conversation(3)
            assert (chat.title, chat.system) == ("Élan", "Be brief.")
            assert chat.created == chat.updated == datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
            assert (chat.sampling, chat.pinned, chat.forked_from) == (Sampling(), False, None)
            (turn,) = chat.turns
            assert (turn.user.text, turn.context_policy, turn.summary) == (
                "The question?",
                ContextPolicy.AUTO,
                "",
            )
            assert [reply.stop_reason for reply in turn.replies] == [StopReason.LENGTH, None]
            assert turn.reply is not None
            assert (turn.reply.id, turn.reply.usage) == (7, Usage(1, 2, 3, 0.5, 1.5))
            assert (turn.reply.adapter, turn.reply.settings) == ("a", '{"seed": 1}')
            assert store.passages(5) == [Passage("text", "source", 0.5)]
            assert store.annotations(5) == [(7, Annotation("p", "n", "v", 0.25))]
            assert store.provenance(7) is None
            assert [chat.id for chat in store.list_conversations()] == [4, 3]
            assert [hit.role for hit in store.search("elan")] == [None]
            assert {hit.reply_id for hit in store.search("answer")} == {7, 8}
    with Store(path) as store:
        store.rename(3, "Other")
        store.delete(store.fork(3).id)
        assert store.search("elan") == []
    check_words(path)
