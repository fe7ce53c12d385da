"""Where the person writes; grows with the text and knows nothing of what happens to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from chatlm.text import visible
from chatlm.tui import keys

ACTIONS = {
    key: binding.action
    for binding in (*TextArea.BINDINGS, *keys.COMPOSER)
    if isinstance(binding, Binding)
    for key in binding.key.split(",")
}
"""What the composer does itself for each key; ours come last and win."""


class Composer(TextArea):
    """A text area that sends with Enter and keeps its text until it is told that all went well."""

    DEFAULT_CSS = """
    Composer {
        height: auto;
        min-height: 3;
        max-height: 10;
        border: round $foreground 30%;
        padding: 0 1;
        background: transparent;
        scrollbar-size-vertical: 1;
        border-title-color: $text-warning;
        border-subtitle-color: $text-muted;

        &:focus { border: round $primary; }
        &.-incognito { border: round $warning 60%; }
        &.-incognito:focus { border: round $warning; }
        & .text-area--placeholder { color: $text-muted; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [*keys.COMPOSER]

    @dataclass
    class Sent(Message):
        """The person wants this text, which is not blank, to be sent."""

        text: str

    def __init__(self) -> None:
        super().__init__(
            id="composer", placeholder="Write a message", highlight_cursor_line=False, compact=False
        )

    def action_send(self) -> None:
        """Post the text, unless it is blank."""
        if self.text.strip():
            self.post_message(self.Sent(self.text))

    def action_newline(self) -> None:
        """Begin a new line at the cursor."""
        self.insert("\n")
        self.scroll_cursor_visible()

    def put_back(self, text: str) -> None:
        """Show a text again that could not be sent, before what was typed since."""
        typed = self.text
        self.text = f"{text}\n{typed}" if typed else text
        self.move_cursor(self.document.end)

    async def _on_key(self, event: events.Key) -> None:
        """Act at once; a binding that bubbles up to the app would act after keys typed later."""
        action = ACTIONS.get(event.key)
        if action is not None and await self.app.run_action(action, self):
            event.stop()
            event.prevent_default()

    async def _on_paste(self, event: events.Paste) -> None:
        """Control characters in a pasted text are made visible: what is seen is what is sent."""
        event.prevent_default()
        event.stop()
        self.insert(visible(event.text.replace("\r\n", "\n").replace("\r", "\n")))
        self.scroll_cursor_visible()
