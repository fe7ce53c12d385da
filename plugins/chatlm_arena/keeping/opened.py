"""The arena's database file, open; the parts of `ArenaStore` build on it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from chatlm import Database
from chatlm_arena.keeping.migrations import MIGRATIONS


class Opened:
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
