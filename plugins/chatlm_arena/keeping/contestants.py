"""The contestants of the arena, as a part of `ArenaStore`."""

from __future__ import annotations

from chatlm import Setup, UsageError
from chatlm_arena.contestants import Contestant, checked_name
from chatlm_arena.keeping import rows
from chatlm_arena.keeping.opened import Opened


class Contestants(Opened):
    """Who can enter the arena."""

    def add_contestant(self, name: str, setup: Setup | None) -> Contestant:
        """A new contestant; one that is known from votes only gets the set-up.

        Raises:
            UsageError: the name cannot be used, or it or the set-up is taken.
        """
        name = checked_name(name)
        with self._database.writing() as db:
            there = rows.named(db, name)
            if there is not None and (there.setup is not None or setup is None):
                raise UsageError(
                    f"There is a contestant {name} already.",
                    hint=f"Change it: chatlm arena contestants edit {name}",
                )
            rows.refuse_twin(db, name, setup)
            return (
                rows.add_contestant(db, name, setup)
                if there is None
                else rows.give_setup(db, there, setup)
            )

    def contestants(self) -> list[Contestant]:
        """All that are there, in the order in which they came."""
        with self._database.reading() as db:
            found = db.execute("SELECT * FROM contestant WHERE gone IS NULL ORDER BY id")
            return [rows.to_contestant(row) for row in found]

    def contestant(self, name: str) -> Contestant:
        """One by its name.

        Raises:
            UsageError: there is none.
        """
        with self._database.reading() as db:
            return rows.needed(db, name)

    def edit_contestant(self, name: str, setup: Setup) -> int:
        """Give a contestant another set-up; votes for the old one, if it had one, count no longer,
        and what that said stays its own.

        Returns:
            how many votes that were.

        Raises:
            UsageError: there is none of this name, or the set-up is another's.
        """
        with self._database.writing() as db:
            old = rows.needed(db, name)
            lost = rows.votes_of(db, old.id)
            if old.setup == setup:
                return 0
            rows.refuse_twin(db, name, setup)
            if old.setup is None or not rows.has_spoken(db, old.id):
                rows.give_setup(db, old, setup)
                return 0
            db.execute("UPDATE contestant SET gone = ? WHERE id = ?", (rows.now(), old.id))
            rows.add_contestant(db, name, setup)
            return lost

    def rename_contestant(self, name: str, new: str) -> None:
        """Call a contestant by another name; its votes stay.

        Raises:
            UsageError: there is none of this name, or the new one cannot be used or is taken.
        """
        new = checked_name(new)
        with self._database.writing() as db:
            old = rows.needed(db, name)
            if rows.named(db, new) is not None:
                raise UsageError(f"There is a contestant {new} already.")
            db.execute("UPDATE contestant SET name = ? WHERE id = ?", (new, old.id))

    def remove_contestant(self, name: str) -> int:
        """Take a contestant out; its votes count no longer, and are returned as their number.

        Raises:
            UsageError: there is none of this name.
        """
        with self._database.writing() as db:
            old = rows.needed(db, name)
            lost = rows.votes_of(db, old.id)
            db.execute("UPDATE contestant SET gone = ? WHERE id = ?", (rows.now(), old.id))
            return lost
