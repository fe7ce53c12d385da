"""The start screen of an empty chat: what to try, what sets chatlm apart, and the keys."""

from __future__ import annotations

from collections.abc import Iterable
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
from chatlm.tui.widgets.hints import KEY_STYLE, Flow, hint

SUGGESTIONS = (
    "What is the capital of France?",
    "Explain how a bicycle stays upright.",
    "Write a short poem about the sea.",
)

FEATURES = (
    ("preview", "x-ray", "the exact prompt, token by token, before you send it"),
    ("sources", "documents", "answers from your own files, with their sources"),
    ("base", "adapters", "other voices and skills for the same model"),
    ("arena", "arena", "two models answer blind, you vote"),
)
"""Commands with what they open and what that is good for; those of missing plugins are left out."""

KEYS = (
    ("send", "send"),
    ("newline", "new line"),
    ("stop", "stop a reply"),
    ("regenerate", "another version"),
    ("next-region", "select a turn"),
    ("chats", "your chats"),
    ("palette", "all commands"),
    ("help", "all keys"),
)
"""Commands on the start screen, with short labels."""

GAP, NAME_WIDTH = 3, 11
"""Cells between a key and its name, and of the name."""


class Choice(Static, can_focus=True):
    """A line that Enter or a click takes."""

    DEFAULT_CSS = """
    Choice {
        height: auto;
        width: auto;
        max-width: 100%;
        padding: 0 1 0 0;
    }
    Choice:hover { background: $primary 15%; }
    Choice:focus { background: $primary 25%; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "Use", show=False),
        Binding("down", "app.focus_next", "Next", show=False),
        Binding("up", "app.focus_previous", "Previous", show=False),
    ]

    async def action_take(self) -> None:
        """Take it on Enter."""
        raise NotImplementedError

    async def on_click(self, event: events.Click) -> None:
        """Take it on a click."""
        event.stop()
        await self.action_take()


class Suggestion(Choice):
    """An example message, which is copied to the composer."""

    DEFAULT_CSS = """
    Suggestion { color: $text-primary; }
    """

    @dataclass
    class Selected(Message):
        """The user selected this text."""

        text: str

    def __init__(self, text: str) -> None:
        super().__init__(Content(f"› {text}"))
        self._text = text

    async def action_take(self) -> None:
        """Post `Selected`."""
        self.post_message(self.Selected(self._text))


class Feature(Choice):
    """A command with its key and what it is good for.

    Args:
        command: the command's name.
        name: what it opens.
        purpose: what that is good for.
        key_width: the cells of its key and the gap behind it.
    """

    def __init__(self, command: str, name: str, purpose: str, key_width: int) -> None:
        self._head = Content.assemble(
            (_key(command).ljust(key_width), KEY_STYLE), (f"{name:<{NAME_WIDTH}}", "$text-accent")
        )
        self._purpose = Content.styled(purpose, "$foreground 70%")
        super().__init__(self._head + self._purpose)
        self._command = command

    def wrap_purpose(self, width: int) -> None:
        """Let the purpose wrap beside the name, in a line of `width` cells."""
        indent = self._head.cell_length
        lines = self._purpose.wrap(max(width - indent - 1, 12))
        self.update(self._head + Content("\n" + " " * indent).join(lines))

    async def action_take(self) -> None:
        """Run the command."""
        await self.screen.run_action(f"screen.command('{self._command}')")


class Welcome(Vertical):
    """The start screen. Its first part, `#first-models`, is for choosing a model at first start."""

    DEFAULT_CSS = """
    Welcome {
        height: auto;
        width: 100%;
        max-width: 80;
        padding: 0 1 0 3;

        & > .name { color: $text-accent; text-style: bold; }
        & > .head { color: $text-muted; margin: 1 0 0 0; }
        & > .keys { margin: 1 0 0 0; color: $text-muted; }
        & > #first-models { height: auto; display: none; }
    }
    """

    def compose(self) -> ComposeResult:
        """Yield the introduction, examples, features and keys."""
        yield Static("Chat with a model on this machine", classes="name")
        yield Static("What you write stays here.")
        yield Vertical(id="first-models")
        yield Static("Try one of these", classes="head")
        yield from (Suggestion(text) for text in SUGGESTIONS)
        features = [each for each in FEATURES if each[0] in commands.ALL]
        key_width = max((len(_key(command)) for command, *_ in features), default=0) + GAP
        yield Static("What you can look into", classes="head")
        yield from (Feature(*each, key_width) for each in features)
        yield Flow(_key_hints(), classes="keys")

    def on_resize(self) -> None:
        """Fit the features into the width."""
        for feature in self.query(Feature):
            feature.wrap_purpose(self.content_size.width)


def _key(command: str) -> str:
    """Return the key of a command, or its slash command."""
    return commands.key_of(command) or f"/{command}"


def _key_hints() -> Iterable[Content]:
    """Yield the keys; a question about chatlm is answered by its manual."""
    yield from (hint(commands.key_of(name), label) for name, label in KEYS)
    if "rag" in commands.ALL:
        yield hint("/rag manual", "answers questions about chatlm")
