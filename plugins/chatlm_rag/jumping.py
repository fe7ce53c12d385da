"""The way from a number in a reply to the passage in the panel; knows no Textual."""

from __future__ import annotations

from typing import Protocol

from chatlm import Ui
from chatlm_rag.slash import PANEL


class Shown(Protocol):
    """The panel of sources while it is on the screen."""

    def jump_soon(self, number: int) -> None:
        """Go to a passage; may be called in any thread."""


_shown: list[Shown] = []
_wanted: list[int] = []


def opened(panel: Shown) -> int | None:
    """Note that the panel is on the screen; gives the passage it is to begin at."""
    _shown[:] = [panel]
    return _wanted.pop() if _wanted else None


def closed(panel: Shown) -> None:
    """Note that the panel has left the screen."""
    if panel in _shown:
        _shown.remove(panel)


def jump(ui: Ui, number: int) -> None:
    """Show a passage of the selected turn, counted from 1."""
    if _shown:
        _shown[0].jump_soon(number)
    else:
        _wanted[:] = [number]
        ui.open_panel(PANEL)
