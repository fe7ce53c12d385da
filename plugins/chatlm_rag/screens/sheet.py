"""A longer answer of a command, to be read and left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm import PluginCard, visible


class RagSheet(PluginCard):
    """The arrows scroll.

    Args:
        text: plain lines.
    """

    DEFAULT_CSS = """
    RagSheet VerticalScroll { height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,enter", "dismiss", "close", show=False),
        Binding("escape", "dismiss", "close"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__("Your documents")
        self._text = text

    def body(self) -> Iterable[Widget]:
        """One scrolling text."""
        with VerticalScroll():
            yield Static(Content(visible(self._text)))
