"""The arena's database: contestants, matches, votes, tournaments and golden chats."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from chatlm import Database, PreparedImage, Setup, UsageError, data_dir
from chatlm_arena.contestants import Contestant, validate_name
from chatlm_arena.golden import GoldenChat
from chatlm_arena.records import (
    HUMAN,
    AspectRating,
    Ballot,
    ImportedVote,
    Judgement,
    Match,
    MatchReply,
    Side,
    VoteFacts,
)
from chatlm_arena.store import facts, rankings, rows
from chatlm_arena.store.migrations import MIGRATIONS
from chatlm_arena.votes import FloatArray, Verdict, Votes


class ArenaStore:
    """The arena's database, usable from any thread.

    Votes are only ever added; an undone vote stays in the database and is marked as undone.

    Args:
        path: the database file, created if missing; None opens a database in memory.

    Raises:
        StoreError: from any method: SQLite failed.
    """

    def __init__(self, path: Path | None) -> None:
        self._database = Database(path, MIGRATIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    # Contestants

    def contestants(self) -> list[Contestant]:
        """Return all contestants in the order in which they were added."""
        with self._database.read_transaction() as db:
            return rows.select_contestants(db)

    def contestant(self, name: str) -> Contestant:
        """Return a contestant by its name.

        Raises:
            UsageError: there is none of this name.
        """
        with self._database.read_transaction() as db:
            return rows.get_contestant(db, name)

    def add_contestant(self, name: str, setup: Setup | None) -> Contestant:
        """Add a contestant, or give a set-up to one that is known from imported votes only.

        Raises:
            UsageError: the name is invalid, or the name or the set-up is taken.
        """
        name = validate_name(name)
        with self._database.write_transaction() as db:
            existing = rows.find_contestant(db, name)
            if existing is not None and (existing.setup is not None or setup is None):
                raise UsageError(
                    f"There is already a contestant {name}.",
                    hint=f"Change it: chatlm arena contestants edit {name}",
                )
            rows.refuse_duplicate_setup(db, name, setup)
            if existing is None:
                return rows.insert_contestant(db, name, setup)
            return rows.update_setup(db, existing, setup)

    def edit_contestant(self, name: str, setup: Setup) -> int:
        """Change a contestant's set-up.

        If the old set-up has replies or votes, it is retired together with them, and a new
        contestant takes its name.

        Returns:
            The number of votes that no longer count.

        Raises:
            UsageError: there is none of this name, or another contestant has this set-up.
        """
        with self._database.write_transaction() as db:
            old = rows.get_contestant(db, name)
            if old.setup == setup:
                return 0
            rows.refuse_duplicate_setup(db, name, setup)
            if old.setup is None or not rows.has_replies_or_votes(db, old.id):
                rows.update_setup(db, old, setup)
                return 0
            votes_lost = rows.count_votes(db, old.id)
            rows.retire_contestant(db, old.id)
            rows.insert_contestant(db, name, setup)
            return votes_lost

    def rename_contestant(self, name: str, new_name: str) -> None:
        """Rename a contestant, which keeps its votes.

        Raises:
            UsageError: there is none of this name, or the new one is invalid or taken.
        """
        new_name = validate_name(new_name)
        with self._database.write_transaction() as db:
            old = rows.get_contestant(db, name)
            if rows.find_contestant(db, new_name) is not None:
                raise UsageError(f"There is already a contestant {new_name}.")
            db.execute("UPDATE contestant SET name = ? WHERE id = ?", (new_name, old.id))

    def remove_contestant(self, name: str) -> int:
        """Remove a contestant.

        Returns:
            The number of votes that no longer count.

        Raises:
            UsageError: there is none of this name.
        """
        with self._database.write_transaction() as db:
            old = rows.get_contestant(db, name)
            votes_lost = rows.count_votes(db, old.id)
            rows.retire_contestant(db, old.id)
            return votes_lost

    # Matches

    def match(self, match_id: int) -> Match:
        """Return a match with its replies.

        Raises:
            UsageError: there is none with this id.
        """
        with self._database.read_transaction() as db:
            return rows.get_match(db, match_id)

    def first_prompts(self) -> dict[int, str]:
        """Return the first message of each match that has a reply, by the match's id."""
        with self._database.read_transaction() as db:
            cursor = db.execute(
                """
                SELECT seat.match_id, min(reply.prompt) FROM seat
                JOIN reply ON reply.id = seat.reply_id
                WHERE seat.turn = 0 GROUP BY seat.match_id
                """
            )
            return dict(cursor.fetchall())

    def add_match(
        self,
        left: Contestant,
        right: Contestant,
        *,
        run_id: int | None = None,
        item: int | None = None,
    ) -> Match:
        """Add a match without replies; in a tournament, return the one that already exists."""
        with self._database.write_transaction() as db:
            match_id = rows.find_match(db, left.id, right.id, run_id, item)
            if match_id is None:
                match_id = rows.insert_match(db, left.id, right.id, run_id, item)
            return Match(match_id, left, right)

    def add_reply(
        self, match: Match, side: Side, reply: MatchReply, images: Iterable[PreparedImage] = ()
    ) -> MatchReply:
        """Save the reply of one side; it replaces an earlier one to the same message.

        Args:
            match: its match.
            side: which side's.
            reply: the reply.
            images: the images of its message, with their bytes.
        """
        with self._database.write_transaction() as db:
            rows.insert_images(db, images)
            stored = reply.with_id(rows.insert_reply(db, reply))
            rows.insert_seat(db, match.id, side, stored)
            return stored

    def image(self, sha256: str) -> bytes:
        """Return the bytes of an image of a match.

        Raises:
            UsageError: they are missing.
        """
        with self._database.read_transaction() as db:
            row = db.execute("SELECT content FROM image WHERE sha256 = ?", (sha256,)).fetchone()
        if row is None:
            raise UsageError(f"The image {sha256[:12]}… of a match is missing.")
        return bytes(row["content"])

    def seat_replies(
        self, match: Match, left: Sequence[MatchReply], right: Sequence[MatchReply]
    ) -> None:
        """Link saved replies to a match."""
        with self._database.write_transaction() as db:
            for reply in left:
                rows.insert_seat(db, match.id, "left", reply)
            for reply in right:
                rows.insert_seat(db, match.id, "right", reply)

    # Votes

    def add_vote(self, match: Match, verdict: Verdict, judge: str = HUMAN) -> int:
        """Save a judge's vote on a match and return its id.

        Raises:
            UsageError: this judge has already voted on it.
        """
        with self._database.write_transaction() as db:
            if rows.has_vote(db, match.id, judge):
                raise UsageError("This match already has a vote.", hint="Undo it first.")
            cursor = db.execute(
                """
                INSERT INTO vote (match_id, left_id, right_id, verdict, judge, created)
                VALUES (?, ?, ?, ?, ?, ?)
                """,
                (match.id, match.left.id, match.right.id, verdict.value, judge, rows.utc_now()),
            )
            return cursor.lastrowid or 0

    def has_vote(self, match: Match, judge: str) -> bool:
        """Return whether a judge has a vote on a match that is not undone."""
        with self._database.read_transaction() as db:
            return rows.has_vote(db, match.id, judge)

    def undo_vote(self, judge: str = HUMAN) -> Ballot:
        """Undo the newest vote of a judge and return it; with all votes of its ranking, if any.

        Raises:
            UsageError: there is none.
        """
        with self._database.write_transaction() as db:
            row = db.execute(
                f"""
                {rows.SELECT_BALLOTS} {rows.FROM_COUNTED_VOTES} AND import_id IS NULL
                ORDER BY vote.id DESC LIMIT 1
                """,
                (judge,),
            ).fetchone()
            if row is None:
                raise UsageError("There is no vote to undo.")
            db.execute(
                """
                INSERT INTO vote_undone SELECT id, ?2 FROM vote WHERE id = ?1 OR ranking_id =
                    (SELECT ranking_id FROM vote WHERE id = ?1)
                """,
                (row["id"], rows.utc_now()),
            )
            return rows.to_ballot(row)

    def votes(self, judge: str = "", matches: Sequence[int] | None = None) -> Votes:
        """Return the votes that count as arrays, oldest first.

        Args:
            judge: return only this judge's votes; empty for all.
            matches: return only votes on the matches with these ids; None for all.
        """
        with self._database.read_transaction() as db:
            contestants = rows.select_contestants(db)
            cursor = db.execute(
                f"""
                SELECT left_id, right_id, {rows.LEFT_SCORE_HALVES} {rows.FROM_COUNTED_VOTES}
                {rows.IN_MATCHES} ORDER BY vote.id
                """,
                (judge, _dump_ids(matches)),
            )
            values = np.fromiter(itertools.chain.from_iterable(cursor), dtype=np.int64)
        table = values.reshape(-1, 3)
        last_id = max((contestant.id for contestant in contestants), default=0)
        index_by_id = np.zeros(last_id + 1, dtype=np.int64)
        index_by_id[[contestant.id for contestant in contestants]] = np.arange(len(contestants))
        return Votes(
            names=tuple(contestant.name for contestant in contestants),
            left=index_by_id[table[:, 0]],
            right=index_by_id[table[:, 1]],
            score=table[:, 2] / 2,
        )

    def ballots(self, judge: str = "") -> list[Ballot]:
        """Return the votes that count as rows, oldest first.

        Args:
            judge: return only this judge's votes; empty for all.
        """
        with self._database.read_transaction() as db:
            cursor = db.execute(
                f"{rows.SELECT_BALLOTS} {rows.FROM_COUNTED_VOTES} ORDER BY vote.id", (judge,)
            )
            return [rows.to_ballot(row) for row in cursor]

    def voted_matches(self, judge: str = "") -> list[tuple[Ballot, Match]]:
        """Return the votes that count and have a match, oldest first, each with its match.

        Args:
            judge: return only this judge's votes; empty for all.
        """
        return [
            (ballot, self.match(ballot.match_id))
            for ballot in self.ballots(judge)
            if ballot.match_id is not None
        ]

    def reply_lengths(
        self, judge: str = "", matches: Sequence[int] | None = None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the scores and reply lengths of the votes that count and have a match.

        Args:
            judge: return only this judge's votes; empty for all.
            matches: as for `votes`.

        Returns:
            Three arrays of shape (votes,): the left side's score, and the number of characters in
            the left and the right replies (nan without replies).
        """
        with self._database.read_transaction() as db:
            cursor = db.execute(
                f"""
                SELECT {rows.LEFT_SCORE_HALVES} / 2.0, {rows.REPLY_LENGTHS}
                {rows.FROM_COUNTED_VOTES} {rows.IN_MATCHES} AND match_id IS NOT NULL
                """,
                (judge, _dump_ids(matches)),
            )
            table = np.array([tuple(row) for row in cursor], dtype=np.float64).reshape(-1, 3)
        return table[:, 0], table[:, 1], table[:, 2]

    def add_ranking(
        self,
        answers: Sequence[tuple[Contestant, Sequence[MatchReply]]],
        places: Sequence[int],
        judge: str = HUMAN,
        *,
        run_id: int | None = None,
        item: int | None = None,
        images: Iterable[PreparedImage] = (),
    ) -> int:
        """Save an order of several answers as the votes of all pairs, and return their number.

        Args:
            answers: contestants with their replies, which are saved if they are not yet, in the
                order in which they were shown; the one that was shown earlier is on the left.
            places: the place of each, 1 for the best; equal places are ties.
            judge: who ranked them.
            run_id: the tournament, if any.
            item: the index of its prompt.
            images: the images of the message, with their bytes.

        Raises:
            UsageError: this judge has already voted on one of the pairs.
        """
        with self._database.write_transaction() as db:
            rows.insert_images(db, images)
            return rankings.insert_ranking(db, answers, places, judge, run_id, item)

    def import_votes(
        self, imported_votes: Iterable[ImportedVote], file_name: str, sha256: str
    ) -> int:
        """Save all votes of a file, or none of them; missing contestants are added.

        Args:
            imported_votes: the votes, with both chats where they are known.
            file_name: the file's name.
            sha256: the hash of its content; a file can be imported only once.

        Returns:
            The number of votes.

        Raises:
            UsageError: the file was imported before; whatever `imported_votes` raises.
        """
        with self._database.write_transaction() as db:
            earlier = db.execute(
                "SELECT created FROM import WHERE sha256 = ?", (sha256,)
            ).fetchone()
            if earlier is not None:
                raise UsageError(
                    f"The votes of {file_name} were already imported on {earlier['created'][:10]}."
                )
            now = rows.utc_now()
            import_id = db.execute(
                "INSERT INTO import (file, sha256, created) VALUES (?, ?, ?)",
                (file_name, sha256, now),
            ).lastrowid
            ids: dict[str, int] = {}

            def contestant_id(name: str) -> int:
                if name not in ids:
                    existing = rows.find_contestant(db, validate_name(name))
                    ids[name] = (existing or rows.insert_contestant(db, name, None)).id
                return ids[name]

            def vote_rows() -> Iterator[tuple[int | None, int | None, int, int, str, str, str]]:
                for vote in imported_votes:
                    left, right = contestant_id(vote.left), contestant_id(vote.right)
                    match_id = (
                        rows.insert_imported_match(db, left, right, vote.chats)
                        if vote.chats
                        else None
                    )
                    yield match_id, import_id, left, right, vote.verdict.value, vote.judge, now

            cursor = db.executemany(
                """
                INSERT INTO vote (match_id, import_id, left_id, right_id, verdict, judge, created)
                VALUES (?, ?, ?, ?, ?, ?, ?)
                """,
                vote_rows(),
            )
            return cursor.rowcount

    # Tournaments. Rows that exist are left as they are: two processes may work on the same run.

    def open_run(self, name: str, plan: Mapping[str, Any]) -> int:
        """Return the id of a tournament, which is added if there is none of this name."""
        with self._database.write_transaction() as db:
            row = db.execute("SELECT id FROM run WHERE name = ?", (name,)).fetchone()
            if row is not None:
                return int(row["id"])
            cursor = db.execute(
                "INSERT INTO run (name, plan, created) VALUES (?, ?, ?)",
                (name, json.dumps(plan), rows.utc_now()),
            )
            return cursor.lastrowid or 0

    def runs(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Return id, name and plan of every tournament, newest first."""
        with self._database.read_transaction() as db:
            cursor = db.execute("SELECT * FROM run ORDER BY id DESC")
            return [(row["id"], row["name"], json.loads(row["plan"])) for row in cursor]

    def run_replies(self, run_id: int) -> dict[tuple[int, int, int], MatchReply]:
        """Return a tournament's replies by prompt index, contestant id and turn."""
        with self._database.read_transaction() as db:
            cursor = db.execute("SELECT * FROM reply WHERE run_id = ?", (run_id,))
            return {
                (row["item"], row["contestant_id"], row["turn"]): rows.to_reply(row)
                for row in cursor
            }

    def run_matches(self) -> list[tuple[int, int, int]]:
        """Return id, tournament and prompt index of all matches of tournaments."""
        with self._database.read_transaction() as db:
            cursor = db.execute("SELECT id, run_id, item FROM match WHERE run_id IS NOT NULL")
            return [(row["id"], row["run_id"], row["item"]) for row in cursor]

    def add_run_reply(self, run_id: int, item: int, reply: MatchReply) -> MatchReply:
        """Save a reply to one of a tournament's prompts, or return the one that is saved."""
        with self._database.write_transaction() as db:
            row = db.execute(
                """
                SELECT * FROM reply
                WHERE run_id = ? AND item = ? AND contestant_id = ? AND turn = ?
                """,
                (run_id, item, reply.contestant_id, reply.turn),
            ).fetchone()
            if row is not None:
                return rows.to_reply(row)
            return reply.with_id(rows.insert_reply(db, reply, run_id, item))

    def judgements(self, match: Match, judge: str) -> list[Judgement]:
        """Return a judge's attempts at a verdict on a match, oldest first."""
        with self._database.read_transaction() as db:
            cursor = db.execute(
                "SELECT * FROM judgement WHERE match_id = ? AND judge = ? ORDER BY id",
                (match.id, judge),
            )
            return [rows.to_judgement(row) for row in cursor]

    def add_judgements(self, match: Match, judge: str, judgements: Sequence[Judgement]) -> None:
        """Save a judge's attempts at a verdict on a match."""
        with self._database.write_transaction() as db:
            rows.insert_judgements(db, match.id, judge, judgements)

    def ratings(self, run_id: int) -> dict[tuple[int, str, str], int | None]:
        """Return a tournament's ratings by reply id, judge and criterion."""
        with self._database.read_transaction() as db:
            cursor = db.execute(
                """
                SELECT mark.* FROM mark JOIN reply ON reply.id = mark.reply_id
                WHERE reply.run_id = ?
                """,
                (run_id,),
            )
            return {
                (row["reply_id"], row["judge"], row["criterion"]): row["value"] for row in cursor
            }

    def add_rating(
        self, reply: MatchReply, judge: str, criterion: str, value: int | None, judge_reply: str
    ) -> None:
        """Save a judge's rating of a reply; None if it gave no valid one."""
        with self._database.write_transaction() as db:
            db.execute(
                """
                INSERT OR IGNORE INTO mark (reply_id, judge, criterion, value, said, created)
                VALUES (?, ?, ?, ?, ?, ?)
                """,
                (
                    reply.id,
                    judge,
                    criterion,
                    value,
                    rows.replace_surrogates(judge_reply),
                    rows.utc_now(),
                ),
            )

    # Facts for statistics

    def vote_facts(self, judge: str = "", matches: Sequence[int] | None = None) -> list[VoteFacts]:
        """Return what is known about the votes that count, in the order of `votes`.

        Args:
            judge: as for `votes`.
            matches: as for `votes`.
        """
        with self._database.read_transaction() as db:
            return facts.select_vote_facts(db, judge, _dump_ids(matches))

    def judged_matches(self) -> list[facts.JudgedMatch]:
        """Return the verdicts that count on each match, by judge."""
        with self._database.read_transaction() as db:
            return facts.select_judged_matches(db)

    def order_counts(self) -> dict[str, facts.OrderCounts]:
        """Return how each model's verdicts depend on the order of the answers."""
        with self._database.read_transaction() as db:
            return facts.select_order_counts(db)

    def votes_by_judge(self) -> dict[str, int]:
        """Return the number of votes that count by judge, the user first."""
        with self._database.read_transaction() as db:
            return facts.count_votes_by_judge(db)

    def unjudged_matches(self, judge: str, voted_by: str = "") -> list[Match]:
        """Return the matches with replies that a judge has not voted on, oldest first.

        Args:
            judge: the judge.
            voted_by: only matches with a vote of this judge; empty for all.
        """
        with self._database.read_transaction() as db:
            ids = facts.select_unjudged_matches(db, judge, voted_by)
            return [rows.get_match(db, match_id) for match_id in ids]

    def reply_times(self) -> list[tuple[str, float, int | None]]:
        """Return contestant, seconds and tokens of each reply whose time is known."""
        with self._database.read_transaction() as db:
            return facts.select_reply_times(db)

    def aspect_ratings(self) -> list[AspectRating]:
        """Return all ratings of answers that have a value."""
        with self._database.read_transaction() as db:
            return facts.select_aspect_ratings(db)

    def rated_votes(self) -> list[tuple[int, int, float]]:
        """Return the last left reply, the last right one and the left score of each vote."""
        with self._database.read_transaction() as db:
            return facts.select_last_replies(db)

    # Golden chats

    def goldens(self) -> list[GoldenChat]:
        """Return all golden chats in the order in which they were added."""
        with self._database.read_transaction() as db:
            return [rows.to_golden(row) for row in db.execute("SELECT * FROM golden ORDER BY id")]

    def add_golden(self, golden: GoldenChat) -> None:
        """Save a golden chat.

        Raises:
            UsageError: there is one of this name.
        """
        with self._database.write_transaction() as db:
            if db.execute("SELECT 1 FROM golden WHERE name = ?", (golden.name,)).fetchone():
                raise UsageError(
                    f"There is already a golden chat {golden.name}.",
                    hint=f"Remove it: chatlm arena golden remove {golden.name}",
                )
            rows.insert_golden(db, golden)

    def remove_golden(self, name: str) -> None:
        """Delete a golden chat.

        Raises:
            UsageError: there is none of this name.
        """
        with self._database.write_transaction() as db:
            cursor = db.execute("DELETE FROM golden WHERE name = ?", (name,))
            if not cursor.rowcount:
                raise UsageError(
                    f"There is no golden chat {name!r}.",
                    hint="List them: chatlm arena golden list",
                )


def _dump_ids(matches: Sequence[int] | None) -> str | None:
    return None if matches is None else json.dumps(list(matches))


def open_arena_store() -> ArenaStore:
    """Open the user's arena."""
    return ArenaStore(data_dir() / "arena.db")


def check_arena_store() -> None:
    """Check that the user's arena can be opened, before a screen depends on it.

    Raises:
        StoreError: it cannot.
    """
    with open_arena_store():
        pass
