"""Golden chats, as a part of `ArenaStore`."""

from __future__ import annotations

import json

from chatlm import UsageError
from chatlm_arena.golden import Golden
from chatlm_arena.keeping import rows
from chatlm_arena.keeping.opened import Opened


class Goldens(Opened):
    """Replies that are right."""

    def add_golden(self, golden: Golden) -> None:
        """Keep one.

        Raises:
            UsageError: there is one of this name.
        """
        with self._database.writing() as db:
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
                    rows.storable(golden.expected),
                    golden.seed,
                    rows.now(),
                ),
            )

    def goldens(self) -> list[Golden]:
        """All, in the order in which they came."""
        with self._database.reading() as db:
            found = db.execute("SELECT * FROM golden ORDER BY id")
            return [
                Golden.from_dict({**dict(row), "messages": json.loads(row["messages"])})
                for row in found
            ]

    def remove_golden(self, name: str) -> None:
        """Forget one.

        Raises:
            UsageError: there is none of this name.
        """
        with self._database.writing() as db:
            done = db.execute("DELETE FROM golden WHERE name = ?", (name,))
            if not done.rowcount:
                raise UsageError(
                    f"There is no golden chat {name!r}.",
                    hint="See them: chatlm arena golden list",
                )
