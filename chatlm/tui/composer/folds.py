"""A text area that folds long pastes into one-line placeholders."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.document._document import EditResult, Location, Selection
from textual.document._edit import Edit
from textual.widgets import TextArea

from chatlm.tui.composer.drafts import (
    Draft,
    find_placeholders,
    for_display,
    format_placeholder,
    sanitise,
    should_fold,
)


class FoldingArea(TextArea):
    """Like `TextArea`, but a long paste shows as `[pasted 1: 120 lines]`.

    A placeholder is atomic: the cursor steps over it, and a deletion that touches it removes all
    of it. What it stands for comes back with it on undo.
    """

    DEFAULT_CSS = """
    FoldingArea .folding-area--paste { color: $text-accent; text-style: bold; }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"folding-area--paste"}

    def __init__(self, *, id: str, placeholder: str) -> None:
        super().__init__(id=id, placeholder=placeholder, highlight_cursor_line=False)
        self._pastes: dict[int, str] = {}

    @property
    def draft(self) -> Draft:
        """The text with its pastes."""
        return Draft.with_used_pastes(self.text, self._pastes)

    @property
    def has_folds(self) -> bool:
        """Whether the text has a placeholder."""
        return any(find_placeholders(self.text))

    def unfold(self, text: str) -> str:
        """Return a part of the text with its pastes inserted."""
        return Draft(text, self._pastes).unfold()

    def set_draft(self, draft: Draft) -> None:
        """Replace the text by a draft, with the cursor at its end."""
        self._pastes = dict(draft.pastes)
        super().load_text(draft.text)
        self.move_cursor(self.document.end)

    def load_text(self, text: str) -> None:
        """Replace the text by an external one."""
        super().load_text(sanitise(text))

    def paste(self, text: str) -> None:
        """Replace the selection by a text, folded if it is long."""
        text = sanitise(text.replace("\r\n", "\n").replace("\r", "\n"))
        if should_fold(text):
            number = max(self._pastes, default=0) + 1
            self._pastes[number] = text
            text = format_placeholder(number, text)
        self.replace(text, *self.selection, maintain_selection_offset=False)
        self.scroll_cursor_visible()

    def action_unfold(self) -> None:
        """Unfold the paste at the cursor, or else the first."""
        folds = [
            (row, start, end, number)
            for row in range(self.document.line_count)
            for start, end, number in find_placeholders(self.document[row])
        ]
        at_row, at_column = self.cursor_location
        here = [fold for fold in folds if fold[0] == at_row and fold[1] <= at_column <= fold[2]]
        for row, start, end, number in (here or folds)[:1]:
            text = self._pastes.get(number, "")
            self.replace(text, (row, start), (row, end), maintain_selection_offset=False)

    def edit(self, edit: Edit) -> EditResult:
        """Perform an edit on whole placeholders."""
        top, bottom = self._fold_start(edit.top), self._fold_end(edit.bottom)
        if (top, bottom) != (edit.top, edit.bottom):
            edit = Edit(edit.text, top, bottom, edit.maintain_selection_offset)
        return super().edit(edit)

    def _refresh_size(self) -> None:
        """Clamp the cursor first: undo removes lines before it moves the cursor."""
        here = self.clamp_visitable(self.cursor_location)
        if here != self.cursor_location:
            self.selection = Selection.cursor(here)
        super()._refresh_size()

    def validate_selection(self, selection: Selection) -> Selection:
        """Move both ends of the selection out of placeholders."""
        return Selection(
            self._skip_folds(self.selection.start, selection.start),
            self._skip_folds(self.selection.end, selection.end),
        )

    def get_line(self, line_index: int) -> Text:
        """Return a line as drawn."""
        line = super().get_line(line_index)
        style = self.get_component_rich_style("folding-area--paste", partial=True)
        for start, end, _ in find_placeholders(line.plain):
            line.stylize(style, start, end)
        line.plain = for_display(line.plain)
        return line

    def find_matching_bracket(self, bracket: str, search_from: Location) -> Location | None:
        """Match no brackets: the search through a long text would delay each key."""
        return None

    @property
    def selected_text(self) -> str:
        """Return the selection, unfolded."""
        return self.unfold(super().selected_text)

    def action_cut(self) -> None:
        """Cut the selection or the line, unfolded, to the clipboard."""
        super().action_cut()
        cut = self.app.clipboard
        if any(find_placeholders(cut)):
            self.app.copy_to_clipboard(self.unfold(cut))

    def action_paste(self) -> None:
        """Paste text cut or copied in the composer."""
        self.paste(self.app.clipboard)

    async def _on_paste(self, event: events.Paste) -> None:
        """Paste text from the terminal."""
        event.prevent_default()
        event.stop()
        self.paste(event.text)

    def _skip_folds(self, origin: Location, target: Location) -> Location:
        """Return the position past a placeholder in the cursor's direction."""
        if origin < target:
            return self._fold_end(target)
        return self._fold_start(target)

    def _fold_start(self, location: Location) -> Location:
        row, column = location
        for start, end, _ in self._folds(row):
            if start < column < end:
                return row, start
        return location

    def _fold_end(self, location: Location) -> Location:
        row, column = location
        for start, end, _ in self._folds(row):
            if start < column < end:
                return row, end
        return location

    def _folds(self, row: int) -> list[tuple[int, int, int]]:
        """Return the placeholders of a line; none for a missing line."""
        if not 0 <= row < self.document.line_count:
            return []
        return list(find_placeholders(self.document[row]))
