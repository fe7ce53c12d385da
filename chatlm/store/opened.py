"""A database that is open, as `with` wants it; the parts of `Store` build on it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from chatlm.store.database import Database


class Opened:
    """An open database.

    Args:
        path: the file, made if absent; None keeps everything in memory (incognito).
    """

    def __init__(self, path: Path | None) -> None:
        self.on_disk = path is not None
        """Whether what is written outlives the program."""
        self._database = Database(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; call no other method afterwards."""
        self._database.close()
