"""Chats that cannot be written can still be read: a read-only folder, a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chatlm.cli.main import cli
from chatlm.errors import StoreError
from chatlm.store import migrations
from chatlm.store.store import Store
from chatlm.types.replies import StopReason
from tests.permissions import read_only

NOTICE = "The chats can be read, but not changed."


@pytest.fixture
def folder(home: Path) -> Path:
    """A home with one chat, as the program leaves it."""
    home.mkdir()
    with Store(home / "chats.db") as store:
        chat = store.create_conversation("Harbours")
        turn = store.add_turn(chat.id, "Where is the lighthouse?")
        reply = store.start_reply(turn.id, model="m")
        store.finish_reply(reply.id, text="By the pier.", stop_reason=StopReason.END)
    return home


def read_everything(store: Store) -> list[str]:
    return [
        *(chat.title for chat in store.list_conversations()),
        store.conversation(1).turns[0].user.text,
        *(hit.title for hit in store.search("lighthouse")),
    ]


EVERYTHING = ["Harbours", "Where is the lighthouse?", "Harbours"]


def chatlm(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_a_read_only_folder_can_be_read(folder: Path) -> None:
    with read_only(folder), Store(folder / "chats.db") as store:
        assert read_everything(store) == EVERYTHING
        assert store.unwritable is not None
        assert not store.can_save
        with pytest.raises(StoreError, match="read-only") as caught:
            store.rename(1, "Piers")
        assert "--incognito" in caught.value.hint
        assert [entry.name for entry in folder.iterdir()] == ["chats.db"]


def test_a_file_that_is_read_only_by_itself_can_be_read(folder: Path) -> None:
    (folder / "chats.db").chmod(0o444)
    with read_only(folder), Store(folder / "chats.db") as store:
        assert read_everything(store) == EVERYTHING


def test_what_a_killed_program_left_in_the_log_is_read_too(folder: Path) -> None:
    killed = os.fork()
    if not killed:
        Store(folder / "chats.db").rename(1, "Piers")
        os._exit(0)
    os.waitpid(killed, 0)
    assert (folder / "chats.db-wal").stat().st_size
    with read_only(folder), Store(folder / "chats.db") as store:
        assert store.title(1) == "Piers"
        assert store.unwritable is not None


def test_a_log_that_cannot_be_read_is_never_left_out_in_silence(folder: Path) -> None:
    killed = os.fork()
    if not killed:
        Store(folder / "chats.db").rename(1, "Piers")
        os._exit(0)
    os.waitpid(killed, 0)
    (folder / "chats.db-shm").unlink()
    with read_only(folder), pytest.raises(StoreError, match="read-only"):
        Store(folder / "chats.db")


def test_an_older_format_is_read_without_changing_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = ("ALTER TABLE conversation ADD COLUMN colour TEXT",)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, added))
    before = (folder / "chats.db").read_bytes()
    with read_only(folder), Store(folder / "chats.db") as store:
        assert read_everything(store) == EVERYTHING
    assert (folder / "chats.db").read_bytes() == before


def test_a_folder_without_chats_that_cannot_be_written_is_an_error(home: Path) -> None:
    home.mkdir()
    with read_only(home), pytest.raises(StoreError, match="cannot be used"):
        Store(home / "chats.db")


@pytest.mark.parametrize(
    "arguments",
    [("list",), ("show", "1"), ("search", "lighthouse"), ("export", "1")],
    ids=lambda arguments: arguments[0],
)
def test_commands_that_only_read_say_once_that_nothing_can_be_changed(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    with read_only(folder):
        result = chatlm("chats", *arguments)
    assert result.exit_code == 0
    assert "Harbours" in result.stdout
    assert result.stderr.count(NOTICE) == 1


def test_a_command_that_changes_a_chat_fails_with_the_reason(folder: Path) -> None:
    with read_only(folder):
        result = chatlm("chats", "rename", "1", "Piers")
    assert isinstance(result.exception, StoreError)
    assert "the file or its folder is read-only" in result.exception.message


def test_where_chats_can_be_written_nothing_is_said(folder: Path) -> None:
    assert NOTICE not in chatlm("chats", "list").stderr


@pytest.fixture
def full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a database for which SQLite finds no space, as on a full tmpfs."""
    connect = sqlite3.connect

    def connect_without_space(name: Path | str, **options: object) -> sqlite3.Connection:
        if "immutable=1" in str(name) or name == ":memory:":
            return connect(name, **options)  # type: ignore[call-overload, no-any-return]
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
        raise error

    monkeypatch.setattr(sqlite3, "connect", connect_without_space)
    yield folder


def test_a_full_disk_can_be_read(full_disk: Path) -> None:
    with Store(full_disk / "chats.db") as store:
        assert read_everything(store) == EVERYTHING
        with pytest.raises(StoreError, match="The disk is full") as caught:
            store.rename(1, "Piers")
        assert "Free some space" in caught.value.hint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB; skipped where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.spawnv(
        os.P_WAIT, mount, ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    ):
        pytest.skip("this user cannot mount a file system")
    yield place
    os.spawnvp(os.P_WAIT, "umount", ["umount", str(place)])


def test_a_disk_that_is_really_full_can_be_read(folder: Path, small_disk: Path) -> None:
    shutil.copy(folder / "chats.db", small_disk)
    with pytest.raises(OSError, match="space") as full, (small_disk / "rest").open("wb") as rest:
        while True:
            rest.write(b"x" * 4096)
            rest.flush()
    assert full.value.errno == errno.ENOSPC
    with Store(small_disk / "chats.db") as store:
        assert read_everything(store) == EVERYTHING
        with pytest.raises(StoreError, match="The disk is full"):
            store.rename(1, "Piers" * 100_000)
