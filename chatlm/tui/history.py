"""Walking back through what was sent before, as in a shell; knows no screen and no store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatlm.tui.drafts import Draft, clean


class History:
    """Earlier messages behind the one that is being written.

    Changes to an earlier one stay while the walk goes on.

    Args:
        read: the earlier messages, newest first; called at the first step of each walk.
    """

    def __init__(self, read: Callable[[], Sequence[str]]) -> None:
        self._read = read
        self._entries: list[Draft] = []
        self._at = 0

    @property
    def walking(self) -> bool:
        """Whether an earlier message stands in place of the one that was being written."""
        return self._at > 0

    def step(self, shown: Draft, steps: int) -> Draft | None:
        """The message `steps` further back, or forth if negative; None where there is none.

        Args:
            shown: what stands in the composer now; it comes back when the walk does.
            steps: 1 or -1.
        """
        if not self.walking:
            if steps < 0:
                return None
            self._entries = [shown, *(Draft(clean(text)) for text in self._read())]
        if not 0 <= self._at + steps < len(self._entries):
            return None
        self._entries[self._at] = shown
        self._at += steps
        return self._entries[self._at]

    def leave(self) -> None:
        """End the walk where it is."""
        self._at = 0
