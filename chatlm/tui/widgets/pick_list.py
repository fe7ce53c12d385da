"""A list on a card whose highlight moves while the card or an input has the focus."""

from __future__ import annotations

from textual.widgets import OptionList


class PickList(OptionList, can_focus=False):
    """Rows of one line each, in a card's colours; the card binds the keys and calls `move`."""

    DEFAULT_CSS = """
    PickList {
        border: none;
        padding: 0;
        background: $surface;
        text-wrap: nowrap;
        text-overflow: ellipsis;

        & > .option-list--option-disabled { color: $text-muted; }
        & > .option-list--option-highlighted {
            background: $primary 18%; color: $foreground; text-style: none;
        }
    }
    """

    def move(self, step: int) -> None:
        """Highlight the next option if `step` is positive, else the previous one."""
        (self.action_cursor_down if step > 0 else self.action_cursor_up)()
