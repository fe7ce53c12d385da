"""Where the system prompt of a chat is written, with what it costs; knows no model."""

from __future__ import annotations

from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static, TextArea

from chatlm.tui.labels import count
from chatlm.tui.widgets.visible_area import VisibleArea, on_lines

TYPING_SECONDS = 0.4
"""So long after the last key the text is worth taking."""


class SystemEditor(Vertical):
    """Says when it is time to `take` what was typed.

    Args:
        system: the prompt at first.
    """

    DEFAULT_CSS = """
    SystemEditor {
        height: 1fr;
        & > TextArea { height: 1fr; border: none; padding: 0; background: $foreground 8%; }
        & > TextArea:focus { border: none; background: $foreground 12%; }
        & > #cost { height: 2; color: $text-muted; }
    }
    """

    @dataclass
    class Paused(Message):
        """The person typed, and paused."""

    def __init__(self, system: str) -> None:
        super().__init__()
        self.system = system
        """What was taken last."""
        self._typing: Timer | None = None

    def compose(self) -> ComposeResult:
        """The text, its cost."""
        yield VisibleArea(self.system, "No system prompt")
        yield Static(id="cost")

    def take(self) -> bool:
        """Let what stands here be the system prompt; returns whether it is another one now.

        A prompt that was only looked at stays as it is, control characters and all.
        """
        text = self.query_one(VisibleArea).text
        if text == on_lines(self.system):
            return False
        self.system = text
        return True

    def show_cost(self, tokens: int | None) -> None:
        """Say what it costs, in tokens; None where that cannot be known yet."""
        told = "What it costs is known once the model is loaded."
        self.query_one("#cost", Static).update(
            told if tokens is None else cost(self.system, tokens)
        )

    @on(TextArea.Changed)
    def _typed(self, event: TextArea.Changed) -> None:
        event.stop()
        if self._typing is not None:
            self._typing.stop()
        self._typing = self.set_timer(TYPING_SECONDS, lambda: self.post_message(self.Paused()))


def cost(system: str, tokens: int) -> str:
    """What a system prompt takes, or what the model's format writes where there is none."""
    if system:
        return f"{count(tokens, 'token')}, read before every message of this chat"
    if tokens:
        return f"None of yours; the model's own template adds its own ({count(tokens, 'token')})"
    return "None: the model reads your messages alone"
