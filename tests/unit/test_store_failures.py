"""Disk failures are reported in words with a next step, and lose nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from chatlm.errors import StoreError
from chatlm.store import database, migrations
from chatlm.store.store import Store
from chatlm.types.replies import StopReason, Usage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


def test_a_full_disk_fails_the_write_and_keeps_all_before_it(path: Path) -> None:
    with Store(path) as store:
        chat = store.create_conversation("kept")
        turn = store.add_turn(chat.id, "question")
        reply = store.start_reply(turn.id, model="m")
        store.journal_reply(reply.id, "half")
        writer = store._database._writer
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="The disk is full") as caught:
            store.journal_reply(reply.id, "x" * 1_000_000)
        assert str(path) in caught.value.message
        assert "Free some space" in caught.value.hint
        assert store.turn(turn.id).replies[0].text == "half"
        writer.execute("PRAGMA max_page_count = 1000000")
        store.finish_reply(reply.id, text="whole", stop_reason=StopReason.END, usage=Usage())
    with Store(path) as store:
        assert store.turn(turn.id).replies[0].text == "whole"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be used: Not a directory") as caught:
        Store(tmp_path / "file" / "below" / "chats.db")
    assert "CHATLM_HOME" in caught.value.hint
    assert "--incognito" in caught.value.hint


def test_a_path_that_is_a_folder(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        Store(path)
    assert str(path) in caught.value.message


def test_a_database_that_became_read_only(path: Path) -> None:
    with Store(path) as store:
        chat = store.create_conversation("kept")
        store._database._writer.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match="cannot be written") as caught:
            store.add_turn(chat.id, "lost")
        assert "Make both writable" in caught.value.hint
        assert store.conversation(chat.id).title == "kept"


def test_a_lock_held_for_long_by_another_program(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_SECONDS", 0.1)
    with Store(path) as store:
        chat = store.create_conversation("kept")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"kept .* locked for over 0.1 seconds"):
            store.add_turn(chat.id, "lost")
        assert store.conversation(chat.id).turns == ()
        other.execute("ROLLBACK")
        other.close()
        assert store.add_turn(chat.id, "later").position == 0


@pytest.mark.parametrize("content", [b"this is no database at all" * 50, b"\0" * 4096])
def test_a_file_that_is_no_database_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged or not a database of chatlm") as caught:
        Store(path)
    assert ".recover" in caught.value.hint
    assert path.read_bytes() == content


def test_a_damaged_page_is_reported_and_nothing_is_changed(path: Path) -> None:
    with Store(path) as store:
        chat = store.create_conversation()
        for number in range(200):
            store.add_turn(chat.id, f"{number} " * 200)
    content = bytearray(path.read_bytes())
    page = content.index(b"150 150 150") // 4096 * 4096
    content[page : page + 4096] = b"\xde\xad" * 2048
    path.write_bytes(content)
    with Store(path) as store, pytest.raises(StoreError, match="damaged") as caught:
        for summary in store.list_conversations():
            store.conversation(summary.id)
    assert f"sqlite3 {path} .recover" in caught.value.hint
    assert path.read_bytes() == content


def test_a_newer_database_is_refused_and_not_touched(path: Path) -> None:
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer chatlm \(format 99") as caught:
        Store(path)
    assert "Update chatlm" in caught.value.hint
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_not_touched(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE places (url TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store(path)
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_format_before_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path) as store:
        store.create_conversation("kept")
    broken = ("CREATE TABLE added (x)", "CREATE TABLE added (x)")
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, broken))
        with pytest.raises(StoreError, match="already exists"):
            Store(path)
    with Store(path) as store:
        assert store.list_conversations()[0].title == "kept"
        with store._database.read_transaction() as db:
            assert db.execute("SELECT 1 FROM sqlite_master WHERE name = 'added'").fetchone() is None


def test_a_failed_write_leaves_no_half_of_it(path: Path) -> None:
    with Store(path) as store:
        turn = store.add_turn(store.create_conversation().id, "q")
        with store._database.write_transaction() as db:
            db.execute(
                "CREATE TRIGGER refuse BEFORE UPDATE OF chosen ON turn"
                " BEGIN SELECT raise(ABORT, 'refused'); END"
            )
        with pytest.raises(StoreError, match="refused"):
            store.start_reply(turn.id, model="m")
        assert store.turn(turn.id).replies == ()


def test_a_closed_store_says_so(path: Path) -> None:
    store = Store(path)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.list_conversations()
