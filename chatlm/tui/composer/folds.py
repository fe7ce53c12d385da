"""Folded pastes: long pastes that the composer shows as one-line placeholders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from textual.document._document import Location

from chatlm.tui.composer.drafts import (
    Draft,
    find_placeholders,
    format_placeholder,
    sanitise,
    should_fold,
)


@dataclass(frozen=True)
class Fold:
    """A placeholder in the text, and the paste that it stands for."""

    start: Location
    end: Location
    paste: str


class Folds:
    """The pastes behind the placeholders of a text, and where the placeholders are.

    Pastes are kept when their placeholder is deleted, so that undo brings them back.

    Args:
        line_at: returns a line of the text by its number; empty for a missing line.
    """

    def __init__(self, line_at: Callable[[int], str]) -> None:
        self._line_at = line_at
        self._pastes: dict[int, str] = {}

    def load(self, draft: Draft) -> None:
        """Replace all pastes by those of a draft."""
        self._pastes = dict(draft.pastes)

    def to_draft(self, text: str) -> Draft:
        """Return a draft of the text, with the pastes that it uses."""
        return Draft.with_used_pastes(text, self._pastes)

    def unfold(self, text: str) -> str:
        """Return the text with its pastes inserted."""
        return Draft(text, self._pastes).unfold()

    def fold(self, pasted: str) -> str:
        """Return what a paste inserts: its text, or a placeholder if it is long."""
        text = sanitise(pasted.replace("\r\n", "\n").replace("\r", "\n"))
        if not should_fold(text):
            return text
        number = max(self._pastes, default=0) + 1
        self._pastes[number] = text
        return format_placeholder(number, text)

    def find_fold(self, cursor: Location, line_count: int) -> Fold | None:
        """Return the fold at the cursor, or else the first; None if there is none."""
        folds = [
            Fold((row, start), (row, end), self._pastes.get(number, ""))
            for row in range(line_count)
            for start, end, number in find_placeholders(self._line_at(row))
        ]
        here = [fold for fold in folds if fold.start <= cursor <= fold.end]
        return next(iter(here or folds), None)

    def start_of(self, location: Location) -> Location:
        """Return the start of the placeholder around a location; elsewhere the location."""
        row, column = location
        for start, end, _ in find_placeholders(self._line_at(row)):
            if start < column < end:
                return row, start
        return location

    def end_of(self, location: Location) -> Location:
        """Return the end of the placeholder around a location; elsewhere the location."""
        row, column = location
        for start, end, _ in find_placeholders(self._line_at(row)):
            if start < column < end:
                return row, end
        return location

    def skip(self, origin: Location, target: Location) -> Location:
        """Return where a move from `origin` ends: past a placeholder that is at the target."""
        return self.end_of(target) if origin < target else self.start_of(target)
