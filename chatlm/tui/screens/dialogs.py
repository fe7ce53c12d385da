"""Dialogs: ask for a line of text; leave an incognito chat."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.text import escape_controls
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.inputs import LineInput, single_line

KEY_ACTIONS = {"enter": "accept", "tab": "suggest", "escape": "leave"}


class PromptLine(LineInput):
    """An input that handles the card's keys in order, until the card is closed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key, f"screen.{action}", action) for key, action in KEY_ACTIONS.items()
    ]

    async def _on_key(self, event: events.Key) -> None:
        """Handle keys at once; a binding could overtake or follow pending letters."""
        over, action = not self.screen.is_current, KEY_ACTIONS.get(event.key)
        if over or (action and await self.app.run_action(action, self.screen)):
            event.stop().prevent_default()


class PromptScreen(Card[str | None]):
    """Asks for a line; returns None if the user cancels.

    An unchanged initial text is returned as it was, control characters included.

    Args:
        title: the question, shown in the border.
        text: the initial text, replaced by the first letter typed.
        hint: shown below the line.
        placeholder: shown in an empty line.
        suggest: makes a text to fill in when the user asks for it; called in a thread, and may
            raise a `ChatlmError`.
    """

    DEFAULT_CSS = """
    PromptScreen {
        & > .card { width: 64; height: auto; padding: 1 2; }
        & .hint { height: auto; margin: 1 0 0 0; }
        & Hints { margin: 1 0 0 0; }
    }
    """

    def __init__(
        self,
        title: str,
        text: str = "",
        hint: str = "",
        placeholder: str = "",
        suggest: Callable[[], str] | None = None,
    ) -> None:
        super().__init__()
        self.CARD_TITLE = title
        self._text = text
        self._hint = hint
        self._placeholder = placeholder
        self._suggest = suggest

    def body(self) -> Iterable[Widget]:
        """Yield the input and the hint."""
        yield PromptLine(self._text, self._placeholder)
        if self._hint:
            yield Static(Content(escape_controls(self._hint)), classes="hint")

    @property
    def _prompt_line(self) -> PromptLine:
        return self.query_one(PromptLine)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the suggestion key without suggestions."""
        return action != "suggest" or self._suggest is not None

    def action_accept(self) -> None:
        """Return the line."""
        line = self._prompt_line.value
        self.dismiss(self._text if line == single_line(self._text) else line)

    def action_leave(self) -> None:
        """Return None."""
        self.dismiss(None)

    def action_suggest(self) -> None:
        """Fill in a suggestion."""
        if self._suggest is not None:
            self.start_work(partial(_single_value, self._suggest))

    def handle_value(self, value: object) -> None:
        """Show the suggestion."""
        self._prompt_line.value = str(value)
        self._prompt_line.action_end()


def _single_value(compute: Callable[[], str]) -> Generator[object, None, None]:
    yield compute()


class LeaveIncognitoScreen(Card[bool | None]):
    """Returns whether to save the chat before leaving; None to stay.

    Args:
        can_save: whether it can be saved.
    """

    DEFAULT_CSS = """
    LeaveIncognitoScreen {
        & > .card { width: 64; height: auto; padding: 1 2; }
        & Hints { margin: 1 0 0 0; }
    }
    """

    CARD_TITLE = "Leave this incognito chat?"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "dismiss(False)", "leave"),
        Binding("ctrl+s", "dismiss(True)", "save and leave"),
        Binding("escape", "dismiss", "stay"),
    ]

    def __init__(self, *, can_save: bool) -> None:
        super().__init__()
        self._can_save = can_save

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide actions that are not available."""
        return self._can_save or parameters != (True,)

    def body(self) -> Iterable[Widget]:
        """Yield the warning."""
        yield Static("It exists only in memory and is lost when you leave.")
