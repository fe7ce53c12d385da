"""What the composer needs to index a folder that is too large to attach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class FolderIndexing(Protocol):
    """Indexes folders for the open chat; used in threads."""

    @property
    def is_possible(self) -> bool:
        """Whether an enabled plugin can."""
        ...

    def index(self, folder: Path) -> Callable[[], None]:
        """Index a folder, which may take minutes.

        Returns:
            What lets the open chat use the index, to be called in the UI thread.

        Raises:
            ChatlmError: it cannot be indexed, or the user stopped it.
        """
        ...
