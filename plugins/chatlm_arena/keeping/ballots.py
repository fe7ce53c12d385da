"""The votes of the arena, as a part of `ArenaStore`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from chatlm import UsageError
from chatlm_arena.contestants import checked_name
from chatlm_arena.keeping import rows
from chatlm_arena.keeping.opened import Opened
from chatlm_arena.records import HUMAN, Ballot, ImportedVote, Match
from chatlm_arena.votes import Numbers, Verdict, Votes

_WITH_NAMES = "SELECT vote.*, l.name AS l, r.name AS r"


class Ballots(Opened):
    """Votes are only ever added; one that is undone stays, and is marked so."""

    def vote(self, match: Match, verdict: Verdict, judge: str = HUMAN) -> int:
        """Keep a verdict on a match and return its number; a judge has one a match.

        Raises:
            UsageError: this judge has voted on it already.
        """
        with self._database.writing() as db:
            found = db.execute(
                "SELECT 1 FROM vote WHERE match_id = ? AND judge = ?"
                " AND id NOT IN (SELECT vote_id FROM vote_undone)",
                (match.id, judge),
            ).fetchone()
            if found is not None:
                raise UsageError("This match has a vote already.", hint="Undo it first.")
            row = db.execute(
                "INSERT INTO vote (match_id, left_id, right_id, verdict, judge, created)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (match.id, match.left.id, match.right.id, verdict.value, judge, rows.now()),
            )
            return row.lastrowid or 0

    def undo_vote(self, judge: str = HUMAN) -> Ballot:
        """Let the newest vote of a judge count no longer.

        Raises:
            UsageError: there is none.
        """
        with self._database.writing() as db:
            row = db.execute(
                "SELECT vote.*, l.name AS l, r.name AS r" + rows.COUNTED + " AND import_id IS NULL"
                " ORDER BY vote.id DESC LIMIT 1",
                (judge,),
            ).fetchone()
            if row is None:
                raise UsageError("There is no vote to undo.")
            db.execute("INSERT INTO vote_undone VALUES (?, ?)", (row["id"], rows.now()))
            return rows.to_ballot(row)

    def votes(self, judge: str = "") -> Votes:
        """The votes that count, in their order.

        Args:
            judge: only of this one; empty for all.
        """
        with self._database.reading() as db:
            there = db.execute("SELECT id, name FROM contestant WHERE gone IS NULL ORDER BY id")
            names = {row["id"]: row["name"] for row in there}
            found = db.execute(
                f"SELECT left_id, right_id, {rows.HALVES}" + rows.COUNTED + " ORDER BY vote.id",
                (judge,),
            )
            flat = np.fromiter(itertools.chain.from_iterable(found), dtype=np.int64)
        columns = flat.reshape(-1, 3)
        place = np.zeros(max(names, default=0) + 1, dtype=np.int64)
        place[list(names)] = np.arange(len(names))
        return Votes(
            tuple(names.values()), place[columns[:, 0]], place[columns[:, 1]], columns[:, 2] / 2
        )

    def ballots(self, judge: str = "") -> list[Ballot]:
        """The votes that count, as rows, in their order."""
        with self._database.reading() as db:
            found = db.execute(
                _WITH_NAMES + rows.COUNTED + " ORDER BY vote.id",
                (judge,),
            )
            return [rows.to_ballot(row) for row in found]

    def lengths(self, judge: str = "") -> tuple[Numbers, Numbers, Numbers]:
        """Of the votes that count and of which the replies are kept: what the left side got, and
        the characters of the left and of the right replies, each of shape (votes,)."""
        side = (
            "(SELECT sum(length(text)) FROM seat JOIN reply ON reply.id = seat.reply_id"
            " WHERE seat.match_id = vote.match_id AND side = '{}')"
        )
        with self._database.reading() as db:
            found = db.execute(
                f"SELECT {rows.HALVES} / 2.0, {side.format('left')}, {side.format('right')}"
                + rows.COUNTED
                + " AND match_id IS NOT NULL",
                (judge,),
            )
            table = np.array([tuple(row) for row in found], dtype=np.float64).reshape(-1, 3)
        return table[:, 0], table[:, 1], table[:, 2]

    def import_votes(self, given: Iterable[ImportedVote], file: str, sha256: str) -> int:
        """Keep votes of a file, all or none; contestants that are not there are added.

        Args:
            given: the votes, with what was said where that is known.
            file: its name.
            sha256: of its content; a file is taken once only.

        Returns:
            how many.

        Raises:
            UsageError: the file was imported before; whatever `given` raises.
        """
        with self._database.writing() as db:
            before = db.execute("SELECT created FROM import WHERE sha256 = ?", (sha256,)).fetchone()
            if before is not None:
                raise UsageError(
                    f"The votes of {file} are in the arena already, since {before['created'][:10]}."
                )
            now = rows.now()
            import_id = db.execute(
                "INSERT INTO import (file, sha256, created) VALUES (?, ?, ?)", (file, sha256, now)
            ).lastrowid
            ids: dict[str, int] = {}

            def contestant(name: str) -> int:
                if name not in ids:
                    there = rows.named(db, checked_name(name))
                    ids[name] = (there or rows.add_contestant(db, name, None)).id
                return ids[name]

            def values() -> Iterator[tuple[int | None, int | None, int, int, str, str, str]]:
                for vote in given:
                    left, right = contestant(vote.left), contestant(vote.right)
                    match = rows.insert_match(db, left, right, vote.chats) if vote.chats else None
                    yield match, import_id, left, right, vote.verdict.value, vote.judge, now

            done = db.executemany(
                "INSERT INTO vote (match_id, import_id, left_id, right_id, verdict, judge, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values(),
            )
            return done.rowcount
