"""Schema of the arena's database as numbered, append-only migrations."""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE contestant (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL,
            setup TEXT,
            created TEXT NOT NULL,
            gone TEXT
        )""",
        "CREATE UNIQUE INDEX contestant_name ON contestant (name) WHERE gone IS NULL",
        """CREATE TABLE run (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            plan TEXT NOT NULL,
            created TEXT NOT NULL,
            finished TEXT
        )""",
        """CREATE TABLE match (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            left_id INTEGER NOT NULL REFERENCES contestant,
            right_id INTEGER NOT NULL REFERENCES contestant,
            run_id INTEGER REFERENCES run,
            item INTEGER,
            created TEXT NOT NULL,
            UNIQUE (run_id, item, left_id, right_id)
        )""",
        """CREATE TABLE reply (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            contestant_id INTEGER NOT NULL REFERENCES contestant,
            run_id INTEGER REFERENCES run,
            item INTEGER,
            turn INTEGER NOT NULL,
            prompt TEXT NOT NULL,
            text TEXT NOT NULL,
            stop_reason TEXT NOT NULL,
            made_by TEXT NOT NULL,
            created TEXT NOT NULL,
            UNIQUE (run_id, item, contestant_id, turn)
        )""",
        """CREATE TABLE seat (
            match_id INTEGER NOT NULL REFERENCES match,
            side TEXT NOT NULL,
            turn INTEGER NOT NULL,
            reply_id INTEGER NOT NULL REFERENCES reply,
            PRIMARY KEY (match_id, side, turn)
        )""",
        """CREATE TABLE import (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            file TEXT NOT NULL,
            sha256 TEXT NOT NULL UNIQUE,
            created TEXT NOT NULL
        )""",
        """CREATE TABLE vote (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            match_id INTEGER REFERENCES match,
            import_id INTEGER REFERENCES import,
            left_id INTEGER NOT NULL REFERENCES contestant,
            right_id INTEGER NOT NULL REFERENCES contestant,
            verdict TEXT NOT NULL,
            judge TEXT NOT NULL,
            created TEXT NOT NULL
        )""",
        "CREATE INDEX vote_match ON vote (match_id) WHERE match_id IS NOT NULL",
        """CREATE TABLE vote_undone (
            vote_id INTEGER PRIMARY KEY REFERENCES vote,
            created TEXT NOT NULL
        )""",
        """CREATE TABLE judgement (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            match_id INTEGER NOT NULL REFERENCES match,
            judge TEXT NOT NULL,
            turned INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            said TEXT NOT NULL,
            verdict TEXT,
            created TEXT NOT NULL,
            UNIQUE (match_id, judge, turned, attempt)
        )""",
        """CREATE TABLE mark (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            reply_id INTEGER NOT NULL REFERENCES reply,
            judge TEXT NOT NULL,
            criterion TEXT NOT NULL,
            value INTEGER,
            said TEXT NOT NULL,
            created TEXT NOT NULL,
            UNIQUE (reply_id, judge, criterion)
        )""",
        """CREATE TABLE golden (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            messages TEXT NOT NULL,
            expected TEXT NOT NULL,
            seed INTEGER,
            created TEXT NOT NULL
        )""",
        """CREATE TRIGGER vote_kept BEFORE DELETE ON vote BEGIN
            SELECT raise(ABORT, 'votes are never deleted');
        END""",
        """CREATE TRIGGER vote_same BEFORE UPDATE ON vote BEGIN
            SELECT raise(ABORT, 'votes are never changed');
        END""",
    ),
    (
        # JSON of the images of the message, NULL for none; each is stored once, by its hash
        "ALTER TABLE reply ADD COLUMN images TEXT",
        "CREATE TABLE image (sha256 TEXT PRIMARY KEY, content BLOB NOT NULL)",
    ),
    (
        # several answers put in order at once; the votes of all pairs refer to it
        """CREATE TABLE ranking (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            judge TEXT NOT NULL,
            places TEXT NOT NULL,
            created TEXT NOT NULL
        )""",
        "ALTER TABLE vote ADD COLUMN ranking_id INTEGER REFERENCES ranking",
        "CREATE INDEX vote_ranking ON vote (ranking_id) WHERE ranking_id IS NOT NULL",
    ),
)
