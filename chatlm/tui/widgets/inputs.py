"""Inputs that show control characters."""

from __future__ import annotations

import dataclasses

from textual.document._document import EditResult
from textual.document._edit import Edit
from textual.widgets import Input, TextArea

from chatlm.text import escape_controls


class VisibleInput(Input):
    """An input that is safe with any text, whether typed, pasted or set: what is seen is kept."""

    def validate_value(self, value: str) -> str:
        """Whatever way the text came."""
        return single_line(value)


class LineInput(VisibleInput):
    """One in a card's colours, without a border."""

    DEFAULT_CSS = """
    LineInput {
        border: none;
        height: 1;
        padding: 0 1;
        background: $foreground 8%;

        &:focus { border: none; background: $primary 25%; }
        & > .input--placeholder { color: $text-muted; }
    }
    """


def single_line(text: str) -> str:
    """The text as it is drawn, with spaces for line ends and tabs."""
    return escape_controls(text).replace("\n", " ").replace("\t", " ")


class VisibleArea(TextArea):
    """A text area that is safe with any text, whether typed, pasted or set: what is seen is kept.

    Args:
        text: to begin with.
        placeholder: shown while there is no text.
    """

    def __init__(self, text: str, placeholder: str = "") -> None:
        super().__init__(normalise_lines(text), placeholder=placeholder)

    def load_text(self, text: str) -> None:
        """Put a text in place of what stands here."""
        super().load_text(normalise_lines(text))

    def edit(self, edit: Edit) -> EditResult:
        """Whatever way the text came."""
        return super().edit(dataclasses.replace(edit, text=normalise_lines(edit.text)))


def normalise_lines(text: str) -> str:
    """The text as it is drawn, each line end as `\\n`."""
    return escape_controls(text.replace("\r\n", "\n").replace("\r", "\n"))
