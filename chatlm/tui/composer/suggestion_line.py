"""Show a suggestion behind the text, ask for it after a pause, and accept it."""

from __future__ import annotations

from collections.abc import Callable

from textual.timer import Timer

from chatlm.tui.composer.draft_area import DraftArea
from chatlm.tui.composer.suggestions import Suggestions, first_word, fit_suggestion

SUGGEST_DELAY_SECONDS = 0.2
"""Seconds without a change after which a suggestion is asked for."""


class SuggestionLine:
    """The suggestion at the end of a text area.

    Args:
        area: the text area.
        ask: returns what to insert at the end of a text, empty for nothing; called in a thread.
        may_show: whether there is room for a suggestion beside what else the area does.
        on_changed: called when another suggestion is shown.
    """

    def __init__(
        self,
        area: DraftArea,
        ask: Callable[[str], str],
        *,
        may_show: Callable[[], bool],
        on_changed: Callable[[], None],
    ) -> None:
        self._area = area
        self._may_show = may_show
        self._on_changed = on_changed
        self._suggestions = Suggestions(
            ask, call_in_ui_thread=area.call_later, on_suggested=self.show
        )
        self._timer: Timer | None = None

    @property
    def busy(self) -> bool:
        """Whether a suggestion is asked for, or soon will be."""
        return self._timer is not None or self._suggestions.busy

    def follow(self) -> None:
        """Keep the suggestion only while the text follows it; called after each change."""
        self._suggestions.follow(self._area.text)
        self.show()

    def show(self) -> None:
        """Show what fits of the suggestion into the line, or nothing."""
        area = self._area
        rest = self._suggestions.rest if self._can_show else ""
        if rest:
            column, _ = area.wrapped_document.location_to_offset(area.cursor_location)
            rest = fit_suggestion(rest, area.wrap_width + 1 - column)  # the cursor is on it
        if rest != area.suggestion:
            area.suggestion = rest
            self._on_changed()

    def accept(self, *, word: bool = False) -> bool:
        """Insert the whole suggestion, or its first word; return False if none is shown."""
        area = self._area
        if not area.suggestion:
            return False
        rest = self._suggestions.rest
        area.history.checkpoint()  # undo removes it alone
        area.insert(first_word(rest) if word else rest, maintain_selection_offset=False)
        area.history.checkpoint()
        return True

    def schedule(self) -> None:
        """Ask for a suggestion once the user pauses."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._area.text.strip():
            self._timer = self._area.set_timer(SUGGEST_DELAY_SECONDS, self._request)

    @property
    def _can_show(self) -> bool:
        area = self._area
        at_end = area.cursor_location == area.document.end and area.selection.is_empty
        return at_end and self._may_show()

    def _request(self) -> None:
        self._timer = None
        if self._can_show and not self._suggestions.rest:
            self._suggestions.request(self._area.unfolded_text)
