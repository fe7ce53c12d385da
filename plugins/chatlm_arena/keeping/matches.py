"""Matches and what was said in them, as a part of `ArenaStore`."""

from __future__ import annotations

from chatlm import UsageError
from chatlm_arena.contestants import Contestant
from chatlm_arena.keeping import rows
from chatlm_arena.keeping.opened import Opened
from chatlm_arena.records import Match, MatchReply, Side


class Matches(Opened):
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
        with self._database.writing() as db:
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
                (*values, rows.now()),
            )
            return Match(row.lastrowid or 0, left, right)

    def add_reply(self, match: Match, side: Side, reply: MatchReply) -> MatchReply:
        """Keep what one side said; a new one for the same turn takes the place of the old."""
        with self._database.writing() as db:
            stored = reply.with_id(rows.insert_reply(db, reply))
            rows.seat(db, match.id, side, stored)
            return stored

    def match(self, match_id: int) -> Match:
        """A match with its replies.

        Raises:
            UsageError: there is none of this number.
        """
        with self._database.reading() as db:
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
