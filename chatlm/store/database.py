"""SQLite connections, transactions, and errors translated for the user."""

from __future__ import annotations

import os
import shlex
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from chatlm.errors import StoreError
from chatlm.store import migrations as chats
from chatlm.store.migrations import Migrations, check_version, migrate, needs_migration

BUSY_TIMEOUT_SECONDS = 5.0
"""How long to wait for a lock held by another process."""

_OTHER_FOLDER_HINT = "set CHATLM_HOME to another folder, or chat without saving: chatlm --incognito"


class Database:
    """A thread-safe database in WAL mode, whose readers never wait for the writer.

    Where a database exists but cannot be written, it is opened to be read.

    Args:
        path: the file, created with its folder if missing; None keeps everything in memory.
        migrations: create its tables; None creates those of the chats.

    Raises:
        StoreError: it cannot be opened, is not a database, or was written by a newer chatlm.
    """

    def __init__(self, path: Path | None, migrations: Migrations | None = None) -> None:
        migrations = chats.MIGRATIONS if migrations is None else migrations
        self._display_name = "the chat in memory" if path is None else str(path)
        self.unwritable: StoreError | None = None
        """Why the database can only be read; None if it can be written."""
        if path is not None:
            _create_file(path)
        self._write_lock = threading.RLock()
        with translate_sqlite_errors(self._display_name):
            try:
                self._open(path, migrations)
            except sqlite3.Error as error:
                if path is None or not _means_unwritable(error):
                    raise
                self._open_to_read(path, migrations, error)

    def _open(self, path: Path | None, migrations: Migrations) -> None:
        if path is not None and not _is_writable(path):
            error = sqlite3.OperationalError("attempt to write a readonly database")
            error.sqlite_errorcode = sqlite3.SQLITE_READONLY
            raise error
        self._writer = self._connect(":memory:" if path is None else path)
        try:
            check_version(self._writer, migrations, self._display_name)
            _enable_wal(self._writer)
            migrate(self._writer, migrations)
            self._reader, self._read_lock = self._writer, self._write_lock
            if path is not None:
                self._reader, self._read_lock = self._connect(path), threading.RLock()
                self._reader.execute("PRAGMA query_only = ON")
        except BaseException:
            self._writer.close()
            raise

    def _open_to_read(self, path: Path, migrations: Migrations, reason: sqlite3.Error) -> None:
        connection = self._connect_to_read(path, reason)
        try:
            check_version(connection, migrations, self._display_name)
            if needs_migration(connection, migrations):
                copy = self._connect(":memory:")
                connection.backup(copy)
                connection.close()
                connection = copy
                migrate(connection, migrations)
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        self._writer = self._reader = connection
        self._read_lock = self._write_lock
        self.unwritable = _unwritable_error(reason, self._display_name)

    def _connect_to_read(self, path: Path, reason: sqlite3.Error) -> sqlite3.Connection:
        """Connect read-only; raise `reason` if that fails too."""
        # Even a reader of a database in WAL mode has to write, to an index of the log, unless
        # Declare to SQLite that nobody else writes. That skips the log, so it must be empty.
        file = path.resolve()
        log = file.with_name(f"{file.name}-wal")
        options = ["mode=ro"]
        if not (log.exists() and log.stat().st_size):
            options.append("mode=ro&immutable=1")
        for option in options:
            try:
                connection = self._connect(f"{file.as_uri()}?{option}")
            except sqlite3.Error:
                continue
            return connection
        raise reason

    def _connect(self, database: Path | str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            database,
            uri=isinstance(database, str),
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,  # transactions are managed below
            check_same_thread=False,  # guarded by the locks below
        )
        connection.row_factory = sqlite3.Row
        connection.text_factory = _decode_text
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")  # overwrite the text of deleted chats
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def read_transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in a read transaction with one consistent snapshot.

        Raises:
            StoreError: SQLite failed.
        """
        with self._read_lock, self._transaction(self._reader, "BEGIN") as connection:
            yield connection

    @contextmanager
    def write_transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in a write transaction, rolled back if it raises.

        Raises:
            StoreError: SQLite failed, or the database can only be read.
        """
        if self.unwritable is not None:
            raise self.unwritable
        with self._write_lock, self._transaction(self._writer, "BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(
        self, connection: sqlite3.Connection, begin_statement: str
    ) -> Iterator[sqlite3.Connection]:
        with translate_sqlite_errors(self._display_name):
            try:
                connection.execute(begin_statement)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise

    def truncate_wal(self) -> None:
        """Copy the write-ahead log into the database and truncate it."""
        if self.unwritable is not None:
            return
        with self._write_lock, translate_sqlite_errors(self._display_name):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        """Wait for running transactions, then close the connections."""
        with self._write_lock, self._read_lock, translate_sqlite_errors(self._display_name):
            self._reader.close()
            self._writer.close()


_decode_text = partial(str, encoding="utf-8", errors="replace")
"""Decodes a text; one byte that is not UTF-8 must not make the others unreadable."""


def _create_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)  # chats are private
    except OSError as error:
        raise StoreError(
            f"The folder {path.parent} for {path.name} cannot be used: {error.strerror}.",
            hint=f"Make it a writable folder, {_OTHER_FOLDER_HINT}.",
        ) from error


def _enable_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode; SQLite's busy timeout does not apply to this statement."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if _primary_error_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.ProgrammingError:
        return  # it was closed, which rolled back


@contextmanager
def translate_sqlite_errors(database_name: str) -> Iterator[None]:
    """Raise a `StoreError` with a hint for any SQLite error of the block."""
    try:
        yield
    except sqlite3.Error as error:
        raise _to_store_error(error, database_name) from error
    except OverflowError as error:
        raise StoreError(
            "There is no chat with so large a number.", "See the saved chats: chatlm chats list"
        ) from error


def _is_writable(path: Path) -> bool:
    file = path.resolve()
    effective = os.access in os.supports_effective_ids
    return all(os.access(place, os.W_OK, effective_ids=effective) for place in (file, file.parent))


def _means_unwritable(error: sqlite3.Error) -> bool:
    return _primary_error_code(error) in (
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    )


def _unwritable_error(reason: sqlite3.Error, database_name: str) -> StoreError:
    if _primary_error_code(reason) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return StoreError(
            f"The disk is full: {database_name} cannot be written.",
            hint="Free some space, then start chatlm again.",
        )
    return StoreError(
        f"{database_name} cannot be written: the file or its folder is read-only.",
        hint=f"Make both writable, {_OTHER_FOLDER_HINT}.",
    )


def _primary_error_code(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else sqlite3.SQLITE_ERROR


def _to_store_error(error: sqlite3.Error, database_name: str) -> StoreError:
    match _primary_error_code(error):
        case sqlite3.SQLITE_FULL:
            return StoreError(
                f"The disk is full: {database_name} could not grow.",
                hint="Free some space and try again. All that was saved before is still there.",
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return StoreError(
                f"{database_name} cannot be written: the file or its folder is read-only.",
                hint=f"Make both writable, {_OTHER_FOLDER_HINT}.",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreError(
                f"Another program has kept {database_name} locked for over "
                f"{BUSY_TIMEOUT_SECONDS:g} seconds.",
                hint="Close it (another chatlm, a backup, a database browser) and try again.",
            )
        case sqlite3.SQLITE_CANTOPEN:
            return StoreError(
                f"{database_name} cannot be opened.",
                hint=f"Check that it and its folder can be read and written, {_OTHER_FOLDER_HINT}.",
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreError(
                f"{database_name} is damaged or not a database of chatlm. chatlm changed "
                "nothing in it.",
                hint="Save what can still be read, then move the damaged file away: "
                f"sqlite3 {shlex.quote(database_name)} .recover | sqlite3 recovered.db",
            )
        case sqlite3.SQLITE_IOERR:
            return StoreError(
                f"The disk failed while {database_name} was read or written ({error}).",
                hint="Check the disk and its free space, then try again.",
            )
        case _:
            return StoreError(f"{database_name} could not be read or written ({error}).")
