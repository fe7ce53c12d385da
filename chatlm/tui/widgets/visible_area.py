"""Lines to type in that show every control character; it knows nothing of what they are for."""

from __future__ import annotations

import dataclasses

from textual.document._document import EditResult
from textual.document._edit import Edit
from textual.widgets import TextArea

from chatlm.text import visible


class VisibleArea(TextArea):
    """A text area that is safe with any text, whether typed, pasted or set: what is seen is kept.

    Args:
        text: to begin with.
        placeholder: shown while there is no text.
    """

    def __init__(self, text: str, placeholder: str = "") -> None:
        super().__init__(on_lines(text), placeholder=placeholder)

    def load_text(self, text: str) -> None:
        """Put a text in place of what stands here."""
        super().load_text(on_lines(text))

    def edit(self, edit: Edit) -> EditResult:
        """Whatever way the text came."""
        return super().edit(dataclasses.replace(edit, text=on_lines(edit.text)))


def on_lines(text: str) -> str:
    """The text as it is drawn, each line end as `\\n`."""
    return visible(text.replace("\r\n", "\n").replace("\r", "\n"))
