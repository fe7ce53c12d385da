"""A text area whose long pastes are folded into placeholders."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.document._document import EditResult, Location, Selection
from textual.document._edit import Edit
from textual.widgets import TextArea

from chatlm.tui.composer.drafts import Draft, find_placeholders, for_display, sanitise
from chatlm.tui.composer.folds import Folds


class DraftArea(TextArea):
    """A text area for a draft with its pastes.

    The placeholder of a folded paste is atomic: the cursor steps over it, and a deletion that
    touches it removes all of it. Undo brings its paste back too.

    Args:
        placeholder: shown while there is no text.
        id: the widget's id.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"draft--paste"}

    DEFAULT_CSS = """
    DraftArea {
        & .text-area--placeholder { color: $text-muted; }
        & .draft--paste { color: $text-accent; text-style: bold; }
    }
    """

    def __init__(self, placeholder: str = "", *, id: str | None = None) -> None:
        self._folds = Folds(self._line_at)  # TextArea's own __init__ calls methods that use it
        super().__init__(id=id, placeholder=placeholder, highlight_cursor_line=False)

    @property
    def draft(self) -> Draft:
        """The text with its pastes."""
        return self._folds.to_draft(self.text)

    def set_draft(self, draft: Draft) -> None:
        """Replace the text by a draft, with the cursor at its end."""
        self._folds.load(draft)
        super().load_text(draft.text)
        self.move_cursor(self.document.end)

    @property
    def unfolded_text(self) -> str:
        """The text with its pastes inserted."""
        return self._folds.unfold(self.text)

    def unfold(self, text: str) -> str:
        """Return a text, such as a part of this one, with its pastes inserted."""
        return self._folds.unfold(text)

    @property
    def has_folds(self) -> bool:
        """Whether a paste is folded."""
        return any(find_placeholders(self.text))

    def load_text(self, text: str) -> None:
        """Replace the text by one from outside the composer."""
        super().load_text(sanitise(text))

    def paste(self, text: str) -> None:
        """Replace the selection by a text, folded if it is long."""
        self.replace_selection(self._folds.fold(text))

    def replace_selection(self, text: str) -> None:
        """Replace the selection by a text, with the cursor behind it."""
        self.replace(text, *self.selection, maintain_selection_offset=False)
        self.scroll_cursor_visible()

    def action_text_start(self) -> None:
        """Go to the beginning of the text."""
        self.move_cursor((0, 0))

    def action_text_end(self) -> None:
        """Go to the end of the text."""
        self.move_cursor(self.document.end)

    def action_unfold(self) -> None:
        """Unfold the paste at the cursor, or else the first."""
        fold = self._folds.find_fold(self.cursor_location, self.document.line_count)
        if fold is not None:
            self.replace(fold.paste, fold.start, fold.end, maintain_selection_offset=False)

    def action_newline(self) -> None:
        """Insert a newline at the cursor."""
        self.insert("\n")
        self.scroll_cursor_visible()

    def edit(self, edit: Edit) -> EditResult:
        """Perform an edit, extended to whole placeholders."""
        top, bottom = self._folds.start_of(edit.top), self._folds.end_of(edit.bottom)
        if (top, bottom) != (edit.top, edit.bottom):
            edit = Edit(edit.text, top, bottom, edit.maintain_selection_offset)
        return super().edit(edit)

    def validate_selection(self, selection: Selection) -> Selection:
        """Move both ends of the selection out of placeholders."""
        return Selection(
            self._folds.skip(self.selection.start, selection.start),
            self._folds.skip(self.selection.end, selection.end),
        )

    def get_line(self, line_index: int) -> Text:
        """Return a line as drawn."""
        line = super().get_line(line_index)
        style = self.get_component_rich_style("draft--paste", partial=True)
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
        return self._folds.unfold(super().selected_text)

    def action_cut(self) -> None:
        """Cut the selection or the line, unfolded, to the clipboard."""
        super().action_cut()
        cut = self.app.clipboard
        if any(find_placeholders(cut)):
            self.app.copy_to_clipboard(self._folds.unfold(cut))

    def action_paste(self) -> None:
        """Paste text that was cut or copied in the composer."""
        self.paste(self.app.clipboard)

    async def _on_paste(self, event: events.Paste) -> None:
        """Paste text from the terminal."""
        event.prevent_default()
        event.stop()
        self.paste(event.text)

    def _line_at(self, row: int) -> str:
        return self.document[row] if 0 <= row < self.document.line_count else ""

    def _refresh_size(self) -> None:
        """Clamp the cursor first: undo removes lines before it moves the cursor."""
        clamped = self.clamp_visitable(self.cursor_location)
        if clamped != self.cursor_location:
            self.selection = Selection.cursor(clamped)
        super()._refresh_size()
