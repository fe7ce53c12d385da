"""What plugins found for saved chats, as a part of `Store`."""

from __future__ import annotations

from collections.abc import Iterable

from chatlm.messages import Annotation, Passage
from chatlm.store import copying, queries, rows
from chatlm.store.opened import Opened
from chatlm.store.rows import storable
from chatlm.trace import Trace


class Found(Opened):
    """Passages, labels, and what plugins did."""

    def save_passages(self, turn_id: int, passages: Iterable[Passage]) -> None:
        """Keep what was found for a turn, in order, in place of what was kept before.

        A score that is not finite is kept as 0.
        """
        with self._database.writing() as db:
            queries.check_turn(db, turn_id)
            db.execute("DELETE FROM passage WHERE turn_id = ?", (turn_id,))
            copying.add_passages(db, turn_id, passages)

    def passages(self, turn_id: int) -> list[Passage]:
        """What was found for a turn, in the order it was saved."""
        with self._database.reading() as db:
            found = db.execute("SELECT * FROM passage WHERE turn_id = ? ORDER BY id", (turn_id,))
            return [rows.to_passage(row) for row in found]

    def annotate(
        self, turn_id: int, reply_id: int | None, annotations: Iterable[Annotation]
    ) -> None:
        """Label a reply, or the user's message (None), in place of the same plugins' old labels."""
        kept = list(annotations)
        with self._database.writing() as db:
            queries.check_turn(db, turn_id, reply_id)
            db.executemany(
                "DELETE FROM annotation WHERE turn_id = ? AND reply_id IS ? AND plugin = ?",
                [(turn_id, reply_id, storable(plugin)) for plugin in {a.plugin for a in kept}],
            )
            copying.add_annotations(db, turn_id, [(reply_id, label) for label in kept])

    def annotations(self, turn_id: int) -> list[tuple[int | None, Annotation]]:
        """A turn's labels, each with the reply it belongs to, None for the user's message."""
        with self._database.reading() as db:
            found = db.execute("SELECT * FROM annotation WHERE turn_id = ? ORDER BY id", (turn_id,))
            return [rows.to_annotation(row) for row in found]

    def save_trace(self, turn_id: int, trace: Trace) -> None:
        """Keep what plugins did for a turn, beside what they did for it before."""
        with self._database.writing() as db:
            queries.check_turn(db, turn_id, trace.reply)
            copying.add_traces(db, turn_id, [trace])

    def traces(self, turn_id: int) -> list[Trace]:
        """What plugins did for a turn, in the order they did it."""
        with self._database.reading() as db:
            found = db.execute("SELECT * FROM trace WHERE turn_id = ? ORDER BY rowid", (turn_id,))
            return [rows.to_trace(row) for row in found]
