"""What an empty chat shows: what this is, three things to try, the keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from chatlm.tui import commands

SUGGESTIONS = (
    "What is the capital of France?",
    "Explain how a bicycle stays upright.",
    "Write a short poem about the sea.",
)

KEYS = (
    ("send", "send"),
    ("newline", "new line"),
    ("stop", "stop a reply"),
    ("next-region", "go to a turn"),
    ("new", "new chat"),
    ("chats", "your chats"),
    ("palette", "all commands"),
    ("help", "all keys"),
    ("quit", "quit"),
)
"""Commands to know from the start, and a word for each."""

ABOUT_CHATLM = Content.assemble(
    "Questions about chatlm itself? ", ("/rag manual", "$text"), " answers them from its guide."
)


class Suggestion(Static, can_focus=True):
    """A message to try; Enter or a click puts it into the composer."""

    DEFAULT_CSS = """
    Suggestion {
        height: auto;
        width: auto;
        max-width: 100%;
        padding: 0 1 0 0;
        color: $text-primary;
    }
    Suggestion:hover { background: $primary 15%; }
    Suggestion:focus { background: $primary 25%; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "Use", show=False),
        Binding("down", "app.focus_next", "Next", show=False),
        Binding("up", "app.focus_previous", "Previous", show=False),
    ]

    @dataclass
    class Taken(Message):
        """The person wants to try this text."""

        text: str

    def __init__(self, text: str) -> None:
        super().__init__(Content(f"› {text}"))
        self._text = text

    def action_take(self) -> None:
        """Hand the text to the composer."""
        self.post_message(self.Taken(self._text))

    def on_click(self, event: events.Click) -> None:
        """The same with the mouse."""
        event.stop()
        self.action_take()


class Welcome(Vertical):
    """The first thing a new person sees."""

    DEFAULT_CSS = """
    Welcome {
        height: auto;
        width: 100%;
        max-width: 72;
        padding: 0 1 0 3;

        & > .name { color: $text-primary; text-style: bold; }
        & > .what { margin: 0 0 1 0; }
        & > .head { color: $text-muted; margin: 1 0 0 0; }
        & > .keys { color: $text-muted; }
    }
    """

    def compose(self) -> ComposeResult:
        """Three short paragraphs."""
        yield Static("chatlm", classes="name")
        yield Static(
            "Talk with a language model that runs on this machine. What you write stays here.",
            classes="what",
        )
        yield Static("Three things to try", classes="head")
        yield from (Suggestion(text) for text in SUGGESTIONS)
        yield Static("Keys", classes="head")
        yield Static(_key_table(), classes="keys")
        if "rag" in commands.ALL:
            yield Static(ABOUT_CHATLM, classes="head")


def _key_table() -> Content:
    """Two columns of keys."""
    cells = [
        Content.assemble((f"{commands.key_of(name):<8}", "$text"), f"{what:<18}")
        for name, what in KEYS
    ]
    rows = [Content("").join(cells[at : at + 2]) for at in range(0, len(cells), 2)]
    return Content("\n").join(rows)
