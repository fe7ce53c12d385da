"""How the lists beside the chat look and move; it knows nothing of what their rows say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from chatlm.tui import commands
from chatlm.tui.commands import Command
from chatlm.tui.widgets.search_box import SearchBox


class RowList(OptionList):
    """Rows to choose from: Up from the first goes to the search box, Down stays on the last."""

    DEFAULT_CSS = """
    RowList {
        height: 1fr;
        max-height: 1fr;
        border: none;
        padding: 0 0 0 1;
        background: transparent;
        scrollbar-size-vertical: 1;
        scrollbar-background: $foreground 0%;
        scrollbar-background-hover: $foreground 0%;
        scrollbar-background-active: $foreground 0%;
        scrollbar-color: $foreground 25%;
        scrollbar-color-hover: $foreground 45%;
        scrollbar-color-active: $foreground 45%;

        &:focus { border: none; background-tint: transparent; }
        & > .option-list--option { padding: 0; }
        & > .option-list--option-disabled { color: $text-muted; }
        & > .option-list--option-highlighted { color: $foreground; background: $foreground 10%; }
        &:focus > .option-list--option-highlighted {
            color: $foreground;
            background: $primary 30%;
            text-style: none;
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "open")]

    @property
    def in_use(self) -> bool:
        """Whether the keys come here, now or after a card is closed; `has_focus` lags behind."""
        return self.screen.focused is self

    def on_focus(self) -> None:
        """Have something for Enter to open."""
        if self.highlighted is None:
            self.action_first()
            self.refresh_bindings()

    def on_click(self, event: events.Click) -> None:
        """The right button goes to a row without opening it."""
        row = event.style.meta.get("option")
        if event.button == 3 and row is not None and not self.options[row].disabled:
            event.prevent_default()
            self.highlighted = row

    def action_search(self) -> None:
        """Go to the search box at once: what is typed next belongs there."""
        self.screen.set_focus(self.screen.query_one(SearchBox))

    def action_first(self) -> None:
        """Go to the first row, and show what stands above it."""
        super().action_first()
        self.scroll_home(animate=False)

    def action_cursor_up(self) -> None:
        """Go to the row above."""
        if self.highlighted in (None, nearest_enabled(self.options, 0)):
            self.action_search()
        else:
            super().action_cursor_up()

    def action_cursor_down(self) -> None:
        """Go to the row below."""
        if self.highlighted != len(self.options) - 1:
            super().action_cursor_down()


def keys(group: Iterable[Command]) -> list[BindingType]:
    """The commands' bindings, in short words for the hints.

    They have priority, since what is typed after a key must not act on the list any more.
    """
    return [
        dataclasses.replace(binding, show=True, description=(binding.id or "").split("-")[-1])
        for binding in commands.bindings(group, priority=True)
    ]


def nearest_enabled(options: Sequence[Option], row: int) -> int | None:
    """The first option from `row` on that can be chosen, else the last before; None for none."""
    enabled = [index for index, option in enumerate(options) if not option.disabled]
    return next((index for index in enabled if index >= row), enabled[-1] if enabled else None)
