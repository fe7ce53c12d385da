"""All that the arena keeps, as `ArenaStore`: each write is on disk when its call returns."""

from __future__ import annotations

from chatlm import data_dir
from chatlm_arena.keeping.ballots import Ballots
from chatlm_arena.keeping.contestants import Contestants
from chatlm_arena.keeping.goldens import Goldens
from chatlm_arena.keeping.matches import Matches
from chatlm_arena.keeping.runs import Runs


class ArenaStore(Contestants, Matches, Ballots, Runs, Goldens):
    """Usable from any thread.

    Args:
        path: the file, made if absent; None keeps everything in memory.

    Raises:
        StoreError: from any method: SQLite failed.
    """


def opened() -> ArenaStore:
    """The person's own arena."""
    return ArenaStore(data_dir() / "arena.db")


def check() -> None:
    """See that the person's own arena can be opened, before a screen depends on it.

    Raises:
        StoreError: it cannot.
    """
    with opened():
        pass
