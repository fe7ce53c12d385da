"""Inputs that make control characters visible."""

from __future__ import annotations

import dataclasses

from textual.document._document import EditResult
from textual.document._edit import Edit
from textual.widgets import Input, TextArea

from chatlm.text import escape_controls


class VisibleInput(Input):
    """An input that makes control characters of any text visible, and stores them so."""

    DEFAULT_CSS = """
    VisibleInput > .input--placeholder { color: $text-muted; }
    """

    def validate_value(self, value: str) -> str:
        """Escape control characters, whatever their source."""
        return single_line(value)


class LineInput(VisibleInput):
    """An input in a card's colours, without a border."""

    DEFAULT_CSS = """
    LineInput {
        border: none;
        height: 1;
        padding: 0 1;
        background: $foreground 8%;

        &:focus { border: none; background: $primary 25%; }
    }
    """


def single_line(text: str) -> str:
    """Return the text as drawn, with spaces for newlines and tabs."""
    return escape_controls(text).replace("\n", " ").replace("\t", " ")


class VisibleArea(TextArea):
    """A text area that makes control characters of any text visible, and stores them so.

    Args:
        text: the initial text.
        placeholder: shown while there is no text.
    """

    def __init__(self, text: str, placeholder: str = "") -> None:
        super().__init__(normalise_lines(text), placeholder=placeholder)

    def load_text(self, text: str) -> None:
        """Replace the text."""
        super().load_text(normalise_lines(text))

    def edit(self, edit: Edit) -> EditResult:
        """Escape control characters, whatever their source."""
        return super().edit(dataclasses.replace(edit, text=normalise_lines(edit.text)))


def normalise_lines(text: str) -> str:
    """Return the text as drawn, with newlines as `\\n`."""
    return escape_controls(text.replace("\r\n", "\n").replace("\r", "\n"))
