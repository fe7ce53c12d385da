"""Tournaments: their replies, judgements and marks, as a part of `ArenaStore`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chatlm_arena.keeping import rows
from chatlm_arena.keeping.opened import Opened
from chatlm_arena.records import Judgement, Match, MatchReply
from chatlm_arena.votes import Verdict


class Runs(Opened):
    """What was made and judged stays, so that a run goes on where it was stopped.

    What is there already stays as it is: two processes may be at the same run.
    """

    def begin_run(self, name: str, plan: Mapping[str, Any]) -> int:
        """A run by its name, begun if there is none, and its number."""
        with self._database.writing() as db:
            found = db.execute("SELECT id FROM run WHERE name = ?", (name,)).fetchone()
            if found is not None:
                return int(found["id"])
            row = db.execute(
                "INSERT INTO run (name, plan, created) VALUES (?, ?, ?)",
                (name, json.dumps(plan), rows.now()),
            )
            return row.lastrowid or 0

    def runs(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Number, name and plan of every run, the newest first."""
        with self._database.reading() as db:
            found = db.execute("SELECT * FROM run ORDER BY id DESC")
            return [(row["id"], row["name"], json.loads(row["plan"])) for row in found]

    def run_replies(self, run_id: int) -> dict[tuple[int, int, int], MatchReply]:
        """The replies of a run by prompt, contestant and turn."""
        with self._database.reading() as db:
            found = db.execute("SELECT * FROM reply WHERE run_id = ?", (run_id,))
            return {
                (row["item"], row["contestant_id"], row["turn"]): rows.to_reply(row)
                for row in found
            }

    def add_run_reply(self, run_id: int, item: int, reply: MatchReply) -> MatchReply:
        """Keep a reply to one of the run's prompts; returns the one that is kept."""
        with self._database.writing() as db:
            there = db.execute(
                "SELECT * FROM reply WHERE (run_id, item, contestant_id, turn) = (?, ?, ?, ?)",
                (run_id, item, reply.contestant_id, reply.turn),
            ).fetchone()
            if there is not None:
                return rows.to_reply(there)
            return reply.with_id(rows.insert_reply(db, reply, run_id, item))

    def seat(self, match: Match, left: Sequence[MatchReply], right: Sequence[MatchReply]) -> None:
        """Let stored replies stand in a match."""
        with self._database.writing() as db:
            for reply in left:
                rows.seat(db, match.id, "left", reply)
            for reply in right:
                rows.seat(db, match.id, "right", reply)

    def has_vote(self, match: Match, judge: str) -> bool:
        """Whether a judge's vote on a match counts."""
        with self._database.reading() as db:
            found = db.execute(
                "SELECT 1 FROM vote WHERE match_id = ? AND judge = ?"
                " AND id NOT IN (SELECT vote_id FROM vote_undone)",
                (match.id, judge),
            )
            return found.fetchone() is not None

    def judgements(self, match: Match, judge: str) -> list[Judgement]:
        """What a judge said about a match, in its order."""
        with self._database.reading() as db:
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

    def add_judgements(self, match: Match, judge: str, said: Sequence[Judgement]) -> None:
        """Keep all that a judge said about a match."""
        with self._database.writing() as db:
            db.executemany(
                "INSERT OR IGNORE INTO judgement"
                " (match_id, judge, turned, attempt, said, verdict, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        match.id,
                        judge,
                        one.turned,
                        one.attempt,
                        rows.storable(one.text),
                        one.verdict.value if one.verdict else None,
                        rows.now(),
                    )
                    for one in said
                ],
            )

    def mark(
        self, reply: MatchReply, judge: str, criterion: str, value: int | None, said: str
    ) -> None:
        """Keep a rating, or that the judge gave none."""
        with self._database.writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO mark (reply_id, judge, criterion, value, said, created)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (reply.id, judge, criterion, value, rows.storable(said), rows.now()),
            )

    def marks(self, run_id: int) -> dict[tuple[int, str, str], int | None]:
        """The ratings of a run by reply, judge and criterion."""
        with self._database.reading() as db:
            found = db.execute(
                "SELECT mark.* FROM mark JOIN reply ON reply.id = reply_id WHERE run_id = ?",
                (run_id,),
            )
            return {
                (row["reply_id"], row["judge"], row["criterion"]): row["value"] for row in found
            }
