"""Schema of the chat database as numbered, append-only migrations."""

from __future__ import annotations

import sqlite3

from chatlm.errors import StoreError

Migrations = tuple[tuple[str, ...], ...]
"""The statements of each migration, oldest first."""

MIGRATIONS: Migrations = (
    (
        """CREATE TABLE conversation (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            title TEXT NOT NULL,
            system TEXT NOT NULL,
            created TEXT NOT NULL,
            updated TEXT NOT NULL
        )""",
        "CREATE INDEX conversation_updated ON conversation (updated DESC, id DESC)",
        """CREATE TABLE turn (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation_id INTEGER NOT NULL REFERENCES conversation ON DELETE CASCADE,
            position INTEGER NOT NULL,
            content TEXT NOT NULL,
            chosen INTEGER REFERENCES reply ON DELETE SET NULL,
            created TEXT NOT NULL,
            UNIQUE (conversation_id, position)
        )""",
        "CREATE INDEX turn_chosen ON turn (chosen)",
        """CREATE TABLE reply (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            turn_id INTEGER NOT NULL REFERENCES turn ON DELETE CASCADE,
            version INTEGER NOT NULL,
            text TEXT NOT NULL DEFAULT '',
            stop_reason TEXT,
            error TEXT,
            model TEXT NOT NULL,
            adapter TEXT,
            settings TEXT NOT NULL,
            prompt_tokens INTEGER NOT NULL DEFAULT 0,
            cached_tokens INTEGER NOT NULL DEFAULT 0,
            completion_tokens INTEGER NOT NULL DEFAULT 0,
            first_token_seconds REAL,
            decode_seconds REAL NOT NULL DEFAULT 0,
            created TEXT NOT NULL,
            UNIQUE (turn_id, version)
        )""",
        """CREATE TABLE passage (
            id INTEGER PRIMARY KEY,
            turn_id INTEGER NOT NULL REFERENCES turn ON DELETE CASCADE,
            text TEXT NOT NULL,
            source TEXT NOT NULL,
            score REAL NOT NULL
        )""",
        "CREATE INDEX passage_turn ON passage (turn_id)",
        """CREATE TABLE annotation (
            id INTEGER PRIMARY KEY,
            turn_id INTEGER NOT NULL REFERENCES turn ON DELETE CASCADE,
            reply_id INTEGER REFERENCES reply ON DELETE CASCADE,
            plugin TEXT NOT NULL,
            name TEXT NOT NULL,
            value TEXT NOT NULL,
            score REAL
        )""",
        "CREATE INDEX annotation_turn ON annotation (turn_id)",
        "CREATE INDEX annotation_reply ON annotation (reply_id)",
        """CREATE VIRTUAL TABLE turn_words USING fts5 (
            content, content='turn', content_rowid='id',
            tokenize='unicode61 remove_diacritics 2'
        )""",
        """CREATE TRIGGER turn_added AFTER INSERT ON turn BEGIN
            INSERT INTO turn_words (rowid, content) VALUES (new.id, new.content);
        END""",
        """CREATE TRIGGER turn_deleted AFTER DELETE ON turn BEGIN
            INSERT INTO turn_words (turn_words, rowid, content)
            VALUES ('delete', old.id, old.content);
        END""",
        """CREATE TRIGGER turn_changed AFTER UPDATE OF content ON turn BEGIN
            INSERT INTO turn_words (turn_words, rowid, content)
            VALUES ('delete', old.id, old.content);
            INSERT INTO turn_words (rowid, content) VALUES (new.id, new.content);
        END""",
        """CREATE VIRTUAL TABLE reply_words USING fts5 (
            text, content='reply', content_rowid='id',
            tokenize='unicode61 remove_diacritics 2'
        )""",
        """CREATE TRIGGER reply_added AFTER INSERT ON reply BEGIN
            INSERT INTO reply_words (rowid, text) VALUES (new.id, new.text);
        END""",
        """CREATE TRIGGER reply_deleted AFTER DELETE ON reply BEGIN
            INSERT INTO reply_words (reply_words, rowid, text)
            VALUES ('delete', old.id, old.text);
        END""",
        """CREATE TRIGGER reply_changed AFTER UPDATE OF text ON reply BEGIN
            INSERT INTO reply_words (reply_words, rowid, text)
            VALUES ('delete', old.id, old.text);
            INSERT INTO reply_words (rowid, text) VALUES (new.id, new.text);
        END""",
    ),
    (
        "ALTER TABLE conversation ADD COLUMN sampling TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE conversation ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE conversation ADD COLUMN trashed TEXT",
        """ALTER TABLE conversation ADD COLUMN forked_from INTEGER
            REFERENCES conversation ON DELETE SET NULL""",
        "DROP INDEX conversation_updated",
        """CREATE INDEX conversation_listed ON conversation (pinned DESC, updated DESC, id DESC)
            WHERE trashed IS NULL""",
        """CREATE INDEX conversation_trashed ON conversation (trashed)
            WHERE trashed IS NOT NULL""",
        "CREATE INDEX conversation_forked ON conversation (forked_from)",
        "CREATE INDEX conversation_created ON conversation (created)",
        "ALTER TABLE turn ADD COLUMN standing TEXT NOT NULL DEFAULT 'auto'",
        "ALTER TABLE turn ADD COLUMN summary TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX turn_created ON turn (created DESC, id DESC)",
        "CREATE INDEX turn_first ON turn (substr(content, 1, 64)) WHERE position = 0",
        """CREATE TABLE provenance (
            reply_id INTEGER PRIMARY KEY REFERENCES reply ON DELETE CASCADE,
            content BLOB NOT NULL
        )""",
        """CREATE TABLE draft (
            conversation_id INTEGER UNIQUE REFERENCES conversation ON DELETE CASCADE,
            text TEXT NOT NULL
        )""",
        "DROP TABLE turn_words",
        """CREATE VIRTUAL TABLE turn_words USING fts5 (
            content, content='turn', content_rowid='id',
            tokenize='unicode61 remove_diacritics 2', prefix='1 2'
        )""",
        "INSERT INTO turn_words (turn_words) VALUES ('rebuild')",
        "DROP TABLE reply_words",
        """CREATE VIRTUAL TABLE reply_words USING fts5 (
            text, content='reply', content_rowid='id',
            tokenize='unicode61 remove_diacritics 2', prefix='1 2'
        )""",
        "INSERT INTO reply_words (reply_words) VALUES ('rebuild')",
        """CREATE VIRTUAL TABLE title_words USING fts5 (
            title, content='conversation', content_rowid='id',
            tokenize='unicode61 remove_diacritics 2', prefix='1 2'
        )""",
        "INSERT INTO title_words (title_words) VALUES ('rebuild')",
        """CREATE TRIGGER title_added AFTER INSERT ON conversation BEGIN
            INSERT INTO title_words (rowid, title) VALUES (new.id, new.title);
        END""",
        """CREATE TRIGGER title_deleted AFTER DELETE ON conversation BEGIN
            INSERT INTO title_words (title_words, rowid, title)
            VALUES ('delete', old.id, old.title);
        END""",
        """CREATE TRIGGER title_changed AFTER UPDATE OF title ON conversation BEGIN
            INSERT INTO title_words (title_words, rowid, title)
            VALUES ('delete', old.id, old.title);
            INSERT INTO title_words (rowid, title) VALUES (new.id, new.title);
        END""",
    ),
    (
        "ALTER TABLE conversation ADD COLUMN kept TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE conversation ADD COLUMN without TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE turn ADD COLUMN typed TEXT NOT NULL DEFAULT ''",
        """CREATE TABLE trace (
            turn_id INTEGER NOT NULL REFERENCES turn ON DELETE CASCADE,
            reply_id INTEGER REFERENCES reply ON DELETE CASCADE,
            content BLOB NOT NULL
        )""",
        "CREATE INDEX trace_of_turn ON trace (turn_id)",
        "CREATE INDEX trace_of_reply ON trace (reply_id)",
    ),
    (
        """ALTER TABLE turn ADD COLUMN words TEXT
            GENERATED ALWAYS AS (coalesce(nullif(typed, ''), content)) VIRTUAL""",
        "DROP TRIGGER turn_added",
        "DROP TRIGGER turn_deleted",
        "DROP TRIGGER turn_changed",
        "DROP TABLE turn_words",
        """CREATE VIRTUAL TABLE turn_words USING fts5 (
            words, content='turn', content_rowid='id',
            tokenize='unicode61 remove_diacritics 2'
        )""",
        "INSERT INTO turn_words (turn_words) VALUES ('rebuild')",
        """CREATE TRIGGER turn_added AFTER INSERT ON turn BEGIN
            INSERT INTO turn_words (rowid, words) VALUES (new.id, new.words);
        END""",
        """CREATE TRIGGER turn_deleted AFTER DELETE ON turn BEGIN
            INSERT INTO turn_words (turn_words, rowid, words)
            VALUES ('delete', old.id, old.words);
        END""",
        """CREATE TRIGGER turn_changed AFTER UPDATE OF content, typed ON turn BEGIN
            INSERT INTO turn_words (turn_words, rowid, words)
            VALUES ('delete', old.id, old.words);
            INSERT INTO turn_words (rowid, words) VALUES (new.id, new.words);
        END""",
    ),
    ("ALTER TABLE passage ADD COLUMN details TEXT NOT NULL DEFAULT '{}'",),
    (
        "ALTER TABLE annotation ADD COLUMN icon TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX annotation_label ON annotation (name, value)",
    ),
    (
        # NULL where `content` or `text` is all there is
        "ALTER TABLE turn ADD COLUMN parts TEXT",
        "ALTER TABLE reply ADD COLUMN steps TEXT",
        "ALTER TABLE reply ADD COLUMN reasoning TEXT NOT NULL DEFAULT ''",
        """CREATE VIRTUAL TABLE reasoning_words USING fts5 (
            reasoning, content='reply', content_rowid='id',
            tokenize='unicode61 remove_diacritics 2', prefix='1 2'
        )""",
        "INSERT INTO reasoning_words (reasoning_words) VALUES ('rebuild')",
        """CREATE TRIGGER reasoning_added AFTER INSERT ON reply BEGIN
            INSERT INTO reasoning_words (rowid, reasoning) VALUES (new.id, new.reasoning);
        END""",
        """CREATE TRIGGER reasoning_deleted AFTER DELETE ON reply BEGIN
            INSERT INTO reasoning_words (reasoning_words, rowid, reasoning)
            VALUES ('delete', old.id, old.reasoning);
        END""",
        """CREATE TRIGGER reasoning_changed AFTER UPDATE OF reasoning ON reply
        WHEN old.reasoning <> new.reasoning BEGIN
            INSERT INTO reasoning_words (reasoning_words, rowid, reasoning)
            VALUES ('delete', old.id, old.reasoning);
            INSERT INTO reasoning_words (rowid, reasoning) VALUES (new.id, new.reasoning);
        END""",
    ),
    (
        # what began the chat: empty for the screen, or `ask`
        "ALTER TABLE conversation ADD COLUMN source TEXT NOT NULL DEFAULT ''",
    ),
    (
        # JSON, empty for none; the tags are separated by spaces
        "ALTER TABLE conversation ADD COLUMN project TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE conversation ADD COLUMN tags TEXT NOT NULL DEFAULT ''",
    ),
    (
        # JSON, empty for none
        "ALTER TABLE conversation ADD COLUMN tools TEXT NOT NULL DEFAULT ''",
    ),
    (
        # names, arguments and results of calls, to be searched
        "ALTER TABLE reply ADD COLUMN tool_text TEXT NOT NULL DEFAULT ''",
        """UPDATE reply SET tool_text = coalesce((
            SELECT group_concat(coalesce(json_extract(p.value, '$.name'), '') || ' ' || coalesce(
                json_extract(p.value, '$.arguments'), json_extract(p.value, '$.text'), ''
            ), char(10))
            FROM json_each(reply.steps) s, json_each(s.value, '$.parts') p
            WHERE json_extract(p.value, '$.type') IN ('tool_call', 'tool_result')
        ), '') WHERE steps IS NOT NULL AND json_valid(steps)""",
        """CREATE VIRTUAL TABLE tool_words USING fts5 (
            tool_text, content='reply', content_rowid='id',
            tokenize='unicode61 remove_diacritics 2', prefix='1 2'
        )""",
        "INSERT INTO tool_words (tool_words) VALUES ('rebuild')",
        """CREATE TRIGGER tool_text_added AFTER INSERT ON reply BEGIN
            INSERT INTO tool_words (rowid, tool_text) VALUES (new.id, new.tool_text);
        END""",
        """CREATE TRIGGER tool_text_deleted AFTER DELETE ON reply BEGIN
            INSERT INTO tool_words (tool_words, rowid, tool_text)
            VALUES ('delete', old.id, old.tool_text);
        END""",
        """CREATE TRIGGER tool_text_changed AFTER UPDATE OF tool_text ON reply
        WHEN old.tool_text <> new.tool_text BEGIN
            INSERT INTO tool_words (tool_words, rowid, tool_text)
            VALUES ('delete', old.id, old.tool_text);
            INSERT INTO tool_words (rowid, tool_text) VALUES (new.id, new.tool_text);
        END""",
    ),
    (
        # JSON, NULL for none
        "ALTER TABLE passage ADD COLUMN images TEXT",
    ),
    (
        # parts of messages, where reply_id is NULL, and of replies; vectors of 16-bit floats
        """CREATE TABLE text_vector (
            id INTEGER PRIMARY KEY,
            turn_id INTEGER NOT NULL REFERENCES turn ON DELETE CASCADE,
            reply_id INTEGER REFERENCES reply ON DELETE CASCADE,
            embedder TEXT NOT NULL,
            start INTEGER NOT NULL,
            vector BLOB NOT NULL
        )""",
        "CREATE INDEX text_vector_of_turn ON text_vector (turn_id)",
        "CREATE INDEX text_vector_of_reply ON text_vector (reply_id)",
        """CREATE TRIGGER message_vector_outdated AFTER UPDATE OF content, typed ON turn
        WHEN old.words <> new.words BEGIN
            DELETE FROM text_vector WHERE turn_id = new.id AND reply_id IS NULL;
        END""",
        """CREATE TRIGGER reply_vector_outdated AFTER UPDATE OF text ON reply
        WHEN old.text <> new.text BEGIN
            DELETE FROM text_vector WHERE reply_id = new.id;
        END""",
    ),
)


def check_version(
    connection: sqlite3.Connection, migrations: Migrations, database_name: str
) -> None:
    """Refuse a database that this version cannot handle; never writes.

    Raises:
        StoreError: a newer chatlm or another program created it.
    """
    version = _user_version(connection)
    if version > len(migrations):
        raise StoreError(
            f"{database_name} was made by a newer chatlm (format {version}; this one reads up to "
            f"{len(migrations)}).",
            hint="Update chatlm, or set CHATLM_HOME to another folder.",
        )
    used = connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    if used and _user_version(connection) == 0:  # another process may just have created it
        raise StoreError(
            f"{database_name} is a database of another program.",
            hint="Move it away, or set CHATLM_HOME to another folder.",
        )


def migrate(connection: sqlite3.Connection, migrations: Migrations) -> None:
    """Apply the missing migrations, each in a transaction.

    Safe if two processes open a new database at once: the second waits and has nothing to do.
    """
    for number, statements in enumerate(migrations, start=1):
        if _user_version(connection) >= number:
            continue
        try:
            connection.execute("BEGIN IMMEDIATE")
            if _user_version(connection) < number:
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def needs_migration(connection: sqlite3.Connection, migrations: Migrations) -> bool:
    """Return whether `migrate` would change the database."""
    return _user_version(connection) < len(migrations)


def _user_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)
