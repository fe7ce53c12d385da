"""The list above the composer: what may be typed next; does not know what becomes of it."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len, set_cell_size
from textual import on
from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from chatlm.text import one_line
from chatlm.tui.completion import Candidate, Completion

ROWS = 8
"""Candidates that are shown at once."""

LABEL_WIDTH = 19
"""Cells of a label that has something beside it."""


class CompletionList(OptionList, can_focus=False):
    """Lies over what is above it, so that nothing moves; the keys stay where they were.

    Args:
        chosen: called with the candidate that was clicked.
    """

    DEFAULT_CSS = """
    CompletionList {
        overlay: screen;
        constrain: none inside;
        display: none;
        height: auto;
        max-height: 8;
        margin: 0 1;
        padding: 0;
        border: none;
        background: $panel;
        color: $foreground;
        text-wrap: nowrap;
        text-overflow: ellipsis;
        scrollbar-size-vertical: 1;
        scrollbar-background: $panel;
        scrollbar-background-hover: $panel;
        scrollbar-background-active: $panel;
        scrollbar-color: $foreground 25%;
        scrollbar-color-hover: $foreground 45%;
        scrollbar-color-active: $foreground 45%;

        &.-open { display: block; }
        & > .option-list--option { padding: 0 2; }
        & > .option-list--option-highlighted {
            background: $primary;
            color: $text;
            text-style: bold;
        }
    }
    """

    def __init__(self, chosen: Callable[[Candidate], None]) -> None:
        super().__init__(markup=False)
        self._chosen = chosen
        self._completion: Completion | None = None

    @property
    def completion(self) -> Completion | None:
        """What is offered; None while the list is closed."""
        return self._completion

    @property
    def candidate(self) -> Candidate | None:
        """The highlighted one."""
        if self._completion is None or self.highlighted is None:
            return None
        return self._completion.candidates[self.highlighted]

    def offer(self, completion: Completion | None) -> None:
        """Show the candidates, or close the list if there are none."""
        if completion == self._completion:
            return
        self._completion = completion
        self.set_class(completion is not None, "-open")
        if completion is not None:
            self.set_options(Option(_row(candidate)) for candidate in completion.candidates)
            self.highlighted = 0 if completion.sure else None
            self.styles.offset = (0, -min(len(completion.candidates), ROWS))

    @on(OptionList.OptionSelected)
    def _take(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self._completion is not None:
            self._chosen(self._completion.candidates[event.option_index])

    @on(OptionList.OptionHighlighted)
    def _keep_to_itself(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()


def _row(candidate: Candidate) -> Content:
    label = one_line(candidate.label, 200)
    if not candidate.detail:
        return Content(label)
    if cell_len(label) < LABEL_WIDTH:
        label = set_cell_size(label, LABEL_WIDTH)
    return Content.assemble(label, (f" {candidate.detail}", "$text-muted"))
