"""ArenaStore."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from chatlm import Database, Setup, UsageError, data_dir
from chatlm_arena.contestants import Contestant, validate_name
from chatlm_arena.golden import GoldenChat
from chatlm_arena.records import HUMAN, Ballot, ImportedVote, Judgement, Match, MatchReply, Side
from chatlm_arena.store import rows
from chatlm_arena.store.migrations import MIGRATIONS
from chatlm_arena.votes import FloatArray, Verdict, Votes


class DatabaseStore:
    """An open database.

    Args:
        path: the file, made if absent; None keeps everything in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._database = Database(path, MIGRATIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()


_SELECT_VOTE = "SELECT vote.*, l.name AS l, r.name AS r"


class VoteStore(DatabaseStore):
    """Votes are only ever added; one that is undone stays, and is marked so."""

    def add_vote(self, match: Match, verdict: Verdict, judge: str = HUMAN) -> int:
        """Keep a verdict on a match and return its number; a judge has one a match.

        Raises:
            UsageError: this judge has voted on it already.
        """
        with self._database.write_transaction() as db:
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
                (match.id, match.left.id, match.right.id, verdict.value, judge, rows.utc_now()),
            )
            return row.lastrowid or 0

    def undo_vote(self, judge: str = HUMAN) -> Ballot:
        """Let the newest vote of a judge count no longer.

        Raises:
            UsageError: there is none.
        """
        with self._database.write_transaction() as db:
            row = db.execute(
                "SELECT vote.*, l.name AS l, r.name AS r"
                + rows.FROM_COUNTED_VOTES
                + " AND import_id IS NULL"
                " ORDER BY vote.id DESC LIMIT 1",
                (judge,),
            ).fetchone()
            if row is None:
                raise UsageError("There is no vote to undo.")
            db.execute("INSERT INTO vote_undone VALUES (?, ?)", (row["id"], rows.utc_now()))
            return rows.to_ballot(row)

    def votes(self, judge: str = "") -> Votes:
        """The votes that count, in their order.

        Args:
            judge: only of this one; empty for all.
        """
        with self._database.read_transaction() as db:
            there = db.execute("SELECT id, name FROM contestant WHERE gone IS NULL ORDER BY id")
            names = {row["id"]: row["name"] for row in there}
            found = db.execute(
                f"SELECT left_id, right_id, {rows.LEFT_SCORE_HALVES}"
                + rows.FROM_COUNTED_VOTES
                + " ORDER BY vote.id",
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
        with self._database.read_transaction() as db:
            found = db.execute(
                _SELECT_VOTE + rows.FROM_COUNTED_VOTES + " ORDER BY vote.id",
                (judge,),
            )
            return [rows.to_ballot(row) for row in found]

    def reply_lengths(self, judge: str = "") -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of the votes that count and of which the replies are kept: what the left side got, and
        the characters of the left and of the right replies, each of shape (votes,)."""
        side = (
            "(SELECT sum(length(text)) FROM seat JOIN reply ON reply.id = seat.reply_id"
            " WHERE seat.match_id = vote.match_id AND side = '{}')"
        )
        with self._database.read_transaction() as db:
            found = db.execute(
                f"SELECT {rows.LEFT_SCORE_HALVES} / 2.0, {side.format('left')}, "
                f"{side.format('right')}" + rows.FROM_COUNTED_VOTES + " AND match_id IS NOT NULL",
                (judge,),
            )
            table = np.array([tuple(row) for row in found], dtype=np.float64).reshape(-1, 3)
        return table[:, 0], table[:, 1], table[:, 2]

    def import_votes(
        self, imported_votes: Iterable[ImportedVote], file_name: str, sha256: str
    ) -> int:
        """Keep votes of a file, all or none; contestants that are not there are added.

        Args:
            imported_votes: the votes, with what was said where that is known.
            file_name: its name.
            sha256: of its content; a file is taken once only.

        Returns:
            how many.

        Raises:
            UsageError: the file was imported before; whatever `imported_votes` raises.
        """
        with self._database.write_transaction() as db:
            before = db.execute("SELECT created FROM import WHERE sha256 = ?", (sha256,)).fetchone()
            if before is not None:
                raise UsageError(
                    f"The votes of {file_name} are in the arena already, since "
                    f"{before['created'][:10]}."
                )
            now = rows.utc_now()
            import_id = db.execute(
                "INSERT INTO import (file, sha256, created) VALUES (?, ?, ?)",
                (file_name, sha256, now),
            ).lastrowid
            ids: dict[str, int] = {}

            def contestant(name: str) -> int:
                if name not in ids:
                    there = rows.find_contestant(db, validate_name(name))
                    ids[name] = (there or rows.insert_contestant(db, name, None)).id
                return ids[name]

            def values() -> Iterator[tuple[int | None, int | None, int, int, str, str, str]]:
                for vote in imported_votes:
                    left, right = contestant(vote.left), contestant(vote.right)
                    match = rows.insert_match(db, left, right, vote.chats) if vote.chats else None
                    yield match, import_id, left, right, vote.verdict.value, vote.judge, now

            done = db.executemany(
                "INSERT INTO vote (match_id, import_id, left_id, right_id, verdict, judge, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values(),
            )
            return done.rowcount


class ContestantStore(DatabaseStore):
    """Who can enter the arena."""

    def add_contestant(self, name: str, setup: Setup | None) -> Contestant:
        """A new contestant; one that is known from votes only gets the set-up.

        Raises:
            UsageError: the name cannot be used, or it or the set-up is taken.
        """
        name = validate_name(name)
        with self._database.write_transaction() as db:
            there = rows.find_contestant(db, name)
            if there is not None and (there.setup is not None or setup is None):
                raise UsageError(
                    f"There is a contestant {name} already.",
                    hint=f"Change it: chatlm arena contestants edit {name}",
                )
            rows.refuse_duplicate_setup(db, name, setup)
            return (
                rows.insert_contestant(db, name, setup)
                if there is None
                else rows.update_setup(db, there, setup)
            )

    def contestants(self) -> list[Contestant]:
        """All that are there, in the order in which they came."""
        with self._database.read_transaction() as db:
            found = db.execute("SELECT * FROM contestant WHERE gone IS NULL ORDER BY id")
            return [rows.to_contestant(row) for row in found]

    def contestant(self, name: str) -> Contestant:
        """One by its name.

        Raises:
            UsageError: there is none.
        """
        with self._database.read_transaction() as db:
            return rows.get_contestant(db, name)

    def edit_contestant(self, name: str, setup: Setup) -> int:
        """Give a contestant another set-up; votes for the old one, if it had one, count no longer,
        and what that said stays its own.

        Returns:
            how many votes that were.

        Raises:
            UsageError: there is none of this name, or the set-up is another's.
        """
        with self._database.write_transaction() as db:
            old = rows.get_contestant(db, name)
            lost = rows.count_votes(db, old.id)
            if old.setup == setup:
                return 0
            rows.refuse_duplicate_setup(db, name, setup)
            if old.setup is None or not rows.has_replies_or_votes(db, old.id):
                rows.update_setup(db, old, setup)
                return 0
            db.execute("UPDATE contestant SET gone = ? WHERE id = ?", (rows.utc_now(), old.id))
            rows.insert_contestant(db, name, setup)
            return lost

    def rename_contestant(self, name: str, new_name: str) -> None:
        """Call a contestant by another name; its votes stay.

        Raises:
            UsageError: there is none of this name, or the new one cannot be used or is taken.
        """
        new_name = validate_name(new_name)
        with self._database.write_transaction() as db:
            old = rows.get_contestant(db, name)
            if rows.find_contestant(db, new_name) is not None:
                raise UsageError(f"There is a contestant {new_name} already.")
            db.execute("UPDATE contestant SET name = ? WHERE id = ?", (new_name, old.id))

    def remove_contestant(self, name: str) -> int:
        """Take a contestant out; its votes count no longer, and are returned as their number.

        Raises:
            UsageError: there is none of this name.
        """
        with self._database.write_transaction() as db:
            old = rows.get_contestant(db, name)
            lost = rows.count_votes(db, old.id)
            db.execute("UPDATE contestant SET gone = ? WHERE id = ?", (rows.utc_now(), old.id))
            return lost


class GoldenStore(DatabaseStore):
    """Replies that are right."""

    def add_golden(self, golden: GoldenChat) -> None:
        """Keep one.

        Raises:
            UsageError: there is one of this name.
        """
        with self._database.write_transaction() as db:
            if db.execute("SELECT 1 FROM golden WHERE name = ?", (golden.name,)).fetchone():
                raise UsageError(
                    f"There is a golden chat {golden.name} already.",
                    hint=f"Remove it: chatlm arena golden remove {golden.name}",
                )
            values = golden.to_dict()
            db.execute(
                "INSERT INTO golden (name, messages, expected, seed, created)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    golden.name,
                    json.dumps(values["messages"]),
                    rows.replace_surrogates(golden.expected),
                    golden.seed,
                    rows.utc_now(),
                ),
            )

    def goldens(self) -> list[GoldenChat]:
        """All, in the order in which they came."""
        with self._database.read_transaction() as db:
            found = db.execute("SELECT * FROM golden ORDER BY id")
            return [
                GoldenChat.from_dict({**dict(row), "messages": json.loads(row["messages"])})
                for row in found
            ]

    def remove_golden(self, name: str) -> None:
        """Forget one.

        Raises:
            UsageError: there is none of this name.
        """
        with self._database.write_transaction() as db:
            done = db.execute("DELETE FROM golden WHERE name = ?", (name,))
            if not done.rowcount:
                raise UsageError(
                    f"There is no golden chat {name!r}.",
                    hint="See them: chatlm arena golden list",
                )


class MatchStore(DatabaseStore):
    """What the contestants said."""

    def add_match(
        self,
        left: Contestant,
        right: Contestant,
        *,
        run_id: int | None = None,
        item: int | None = None,
    ) -> Match:
        """A match that begins; in a run the same is not begun twice."""
        with self._database.write_transaction() as db:
            values = (left.id, right.id, run_id, item)
            found = db.execute(
                "SELECT id FROM match WHERE left_id = ? AND right_id = ? AND run_id = ?"
                " AND item = ?",
                values,
            ).fetchone()
            if found is not None:
                return Match(found["id"], left, right)
            row = db.execute(
                "INSERT INTO match (left_id, right_id, run_id, item, created)"
                " VALUES (?, ?, ?, ?, ?)",
                (*values, rows.utc_now()),
            )
            return Match(row.lastrowid or 0, left, right)

    def add_reply(self, match: Match, side: Side, reply: MatchReply) -> MatchReply:
        """Keep what one side said; a new one for the same turn takes the place of the old."""
        with self._database.write_transaction() as db:
            stored = reply.with_id(rows.insert_reply(db, reply))
            rows.insert_seat(db, match.id, side, stored)
            return stored

    def match(self, match_id: int) -> Match:
        """A match with its replies.

        Raises:
            UsageError: there is none of this number.
        """
        with self._database.read_transaction() as db:
            found = db.execute("SELECT * FROM match WHERE id = ?", (match_id,)).fetchone()
            if found is None:
                raise UsageError(f"There is no match {match_id}.")
            left, right = (
                rows.to_contestant(
                    db.execute("SELECT * FROM contestant WHERE id = ?", (found[key],)).fetchone()
                )
                for key in ("left_id", "right_id")
            )
            sides: dict[str, list[MatchReply]] = {"left": [], "right": []}
            for row in db.execute(
                "SELECT side, reply.* FROM seat JOIN reply ON reply.id = reply_id"
                " WHERE match_id = ? ORDER BY seat.turn",
                (match_id,),
            ):
                sides[row["side"]].append(rows.to_reply(row))
            return Match(match_id, left, right, tuple(sides["left"]), tuple(sides["right"]))


class RunStore(DatabaseStore):
    """What was made and judged stays, so that a run goes on where it was stopped.

    What is there already stays as it is: two processes may be at the same run.
    """

    def open_run(self, name: str, plan: Mapping[str, Any]) -> int:
        """A run by its name, begun if there is none, and its number."""
        with self._database.write_transaction() as db:
            found = db.execute("SELECT id FROM run WHERE name = ?", (name,)).fetchone()
            if found is not None:
                return int(found["id"])
            row = db.execute(
                "INSERT INTO run (name, plan, created) VALUES (?, ?, ?)",
                (name, json.dumps(plan), rows.utc_now()),
            )
            return row.lastrowid or 0

    def runs(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Number, name and plan of every run, the newest first."""
        with self._database.read_transaction() as db:
            found = db.execute("SELECT * FROM run ORDER BY id DESC")
            return [(row["id"], row["name"], json.loads(row["plan"])) for row in found]

    def run_replies(self, run_id: int) -> dict[tuple[int, int, int], MatchReply]:
        """The replies of a run by prompt, contestant and turn."""
        with self._database.read_transaction() as db:
            found = db.execute("SELECT * FROM reply WHERE run_id = ?", (run_id,))
            return {
                (row["item"], row["contestant_id"], row["turn"]): rows.to_reply(row)
                for row in found
            }

    def add_run_reply(self, run_id: int, item: int, reply: MatchReply) -> MatchReply:
        """Keep a reply to one of the run's prompts; returns the one that is kept."""
        with self._database.write_transaction() as db:
            there = db.execute(
                "SELECT * FROM reply WHERE (run_id, item, contestant_id, turn) = (?, ?, ?, ?)",
                (run_id, item, reply.contestant_id, reply.turn),
            ).fetchone()
            if there is not None:
                return rows.to_reply(there)
            return reply.with_id(rows.insert_reply(db, reply, run_id, item))

    def seat_replies(
        self, match: Match, left: Sequence[MatchReply], right: Sequence[MatchReply]
    ) -> None:
        """Let stored replies stand in a match."""
        with self._database.write_transaction() as db:
            for reply in left:
                rows.insert_seat(db, match.id, "left", reply)
            for reply in right:
                rows.insert_seat(db, match.id, "right", reply)

    def has_vote(self, match: Match, judge: str) -> bool:
        """Whether a judge's vote on a match counts."""
        with self._database.read_transaction() as db:
            found = db.execute(
                "SELECT 1 FROM vote WHERE match_id = ? AND judge = ?"
                " AND id NOT IN (SELECT vote_id FROM vote_undone)",
                (match.id, judge),
            )
            return found.fetchone() is not None

    def judgements(self, match: Match, judge: str) -> list[Judgement]:
        """What a judge said about a match, in its order."""
        with self._database.read_transaction() as db:
            found = db.execute(
                "SELECT * FROM judgement WHERE match_id = ? AND judge = ? ORDER BY id",
                (match.id, judge),
            )
            return [
                Judgement(
                    bool(row["turned"]),
                    row["attempt"],
                    row["said"],
                    Verdict(row["verdict"]) if row["verdict"] else None,
                )
                for row in found
            ]

    def add_judgements(self, match: Match, judge: str, judgements: Sequence[Judgement]) -> None:
        """Keep all that a judge said about a match."""
        with self._database.write_transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO judgement"
                " (match_id, judge, turned, attempt, said, verdict, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        match.id,
                        judge,
                        one.swapped,
                        one.attempt,
                        rows.replace_surrogates(one.text),
                        one.verdict.value if one.verdict else None,
                        rows.utc_now(),
                    )
                    for one in judgements
                ],
            )

    def add_rating(
        self, reply: MatchReply, judge: str, criterion: str, value: int | None, judge_reply: str
    ) -> None:
        """Keep a rating, or that the judge gave none."""
        with self._database.write_transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO mark (reply_id, judge, criterion, value, said, created)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    reply.id,
                    judge,
                    criterion,
                    value,
                    rows.replace_surrogates(judge_reply),
                    rows.utc_now(),
                ),
            )

    def ratings(self, run_id: int) -> dict[tuple[int, str, str], int | None]:
        """The ratings of a run by reply, judge and criterion."""
        with self._database.read_transaction() as db:
            found = db.execute(
                "SELECT mark.* FROM mark JOIN reply ON reply.id = reply_id WHERE run_id = ?",
                (run_id,),
            )
            return {
                (row["reply_id"], row["judge"], row["criterion"]): row["value"] for row in found
            }


class ArenaStore(ContestantStore, MatchStore, VoteStore, RunStore, GoldenStore):
    """Usable from any thread.

    Args:
        path: the file, made if absent; None keeps everything in memory.

    Raises:
        StoreError: from any method: SQLite failed.
    """


def open_arena_store() -> ArenaStore:
    """The person's own arena."""
    return ArenaStore(data_dir() / "arena.db")


def check_arena_store() -> None:
    """See that the person's own arena can be opened, before a screen depends on it.

    Raises:
        StoreError: it cannot.
    """
    with open_arena_store():
        pass
