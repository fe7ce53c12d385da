"""One line to type in that shows every control character; it knows nothing of what it is for."""

from __future__ import annotations

from textual.widgets import Input

from chatlm.text import visible


class VisibleInput(Input):
    """An input that is safe with any text, whether typed, pasted or set: what is seen is kept."""

    def validate_value(self, value: str) -> str:
        """Whatever way the text came."""
        return on_one_line(value)


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


def on_one_line(text: str) -> str:
    """The text as it is drawn, with spaces for line ends and tabs."""
    return visible(text).replace("\n", " ").replace("\t", " ")
