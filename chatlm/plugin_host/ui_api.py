"""Slash commands, panels and screens of plugins, and the `Ui` that plugins get."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from chatlm.types.engine import Engine
from chatlm.types.messages import Conversation, Passage, Turn
from chatlm.types.sampling import Sampling
from chatlm.types.setups import SideChats


class ProgressReporter(Protocol):
    """The progress of a long operation of a plugin."""

    @property
    def cancelled(self) -> bool:
        """Whether the user cancelled it; check between steps."""
        ...

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show how far it is.

        Args:
            done: steps behind it.
            total: steps in all; None where that is not known.
            note: what is being done, in a few words.
        """


class Ui(Protocol):
    """The chat's screen for one plugin; every method may be called in any thread but `shutdown`'s.

    What a method asks for happens soon after it returned.
    """

    @property
    def conversation(self) -> Conversation:
        """The chat that is shown, as it is stored; id 0 before its first message."""
        ...

    @property
    def turn(self) -> Turn | None:
        """The selected turn, else the newest; None in an empty chat."""
        ...

    @property
    def passages(self) -> Sequence[Passage]:
        """What was found for `turn`."""
        ...

    @property
    def engine(self) -> Engine | None:
        """The loaded model; None while there is none."""
        ...

    @property
    def state(self) -> Mapping[str, Any]:
        """What the plugin keeps with the chat."""
        ...

    def set_state(self, **values: Any) -> None:
        """Keep values with the chat, beside the others that the plugin keeps; None forgets one.

        Args:
            values: plain values, as JSON has them.
        """

    def notify(self, text: str, *, warning: bool = False) -> None:
        """Show a short notice over the chat."""

    def show_status(self, text: str) -> None:
        """Show a few words beside the model's name in the status bar, in place of those that the
        plugin showed there before; empty shows nothing. Chats that are shown later keep them."""

    def insert_text(self, text: str) -> None:
        """Put a text into the composer, where the cursor is."""

    def send(self, text: str) -> None:
        """Send a message, as if the user had typed it; refused with a notice while a reply is
        being written."""

    def set_chat(self, *, system: str | None = None, sampling: Sampling | None = None) -> None:
        """Change the system prompt or the sampling of the chat; None leaves one as it is."""

    def new_chat(
        self,
        *,
        system: str = "",
        sampling: Sampling | None = None,
        state: Mapping[str, Any] | None = None,
        model: str = "",
        message: str = "",
    ) -> None:
        """Show a new chat.

        Args:
            system: its system prompt; empty for the one in the config.
            sampling: what is set for it alone.
            state: what the plugin keeps with it.
            model: talk to this one from now on, as `/model` does; empty for the one there is.
            message: sent at once; empty for none.
        """

    def open_screen(self, name: str, argument: str = "") -> None:
        """Show a screen that a plugin registered."""

    def open_panel(self, name: str) -> None:
        """Show a panel that a plugin registered; the one that is shown is closed instead."""

    def side_chats(self, report: Callable[[str], None]) -> SideChats:
        """Chats beside this one, which share its model where they need the same.

        Args:
            report: told in a few words which model is being loaded.
        """
        ...

    def progress(self, title: str) -> AbstractContextManager[ProgressReporter]:
        """Show a long work while it lasts, with a bar and a way to cancel it."""
        ...


@dataclass(frozen=True)
class SlashCommand:
    """One thing a plugin can do: a slash command, an entry in the palette and, if wanted, a key."""

    name: str
    """As it is typed, without the slash: small letters, digits and hyphens."""
    help: str
    """What it does, in a few words."""
    run: Callable[[Ui, str], None]
    """Called with what was typed after the name, in a thread of its own. A `ChatlmError` that it
    raises is told as it is; any other exception is the plugin's failure."""
    argument: str = ""
    """What may follow, such as `NAME`; in brackets when it may be left out."""
    key: str = ""
    """`ctrl+` or `alt+` and a letter, or `f2` to `f12`; the user may choose another in the
    config."""

    def check(self) -> None:
        """Check the fields, when it is registered: one mistake must not cost the others.

        Raises:
            ValueError: a field is not valid.
        """
        _check_name(self.name)
        _check_not_blank("help", self.help)
        _check_function("run", self.run)
        _check_key(self.key)


@dataclass(frozen=True)
class Panel:
    """A region beside the transcript that a plugin draws."""

    name: str
    """Small letters, digits and hyphens; `/NAME` opens and closes it."""
    title: str
    create_widget: Callable[[Ui], Any]
    """Makes its Textual widget, in the screen's thread; may import textual. A method `show(ui)` of
    the widget is called at first and whenever the chat or the selected turn changed."""
    key: str = ""
    """Opens and closes it too; as that of a `SlashCommand`."""

    def check(self) -> None:
        """Check the fields, when it is registered: one mistake must not cost the others.

        Raises:
            ValueError: a field is not valid.
        """
        _check_name(self.name)
        _check_not_blank("title", self.title)
        _check_function("open", self.create_widget)
        _check_key(self.key)


@dataclass(frozen=True)
class PluginScreen:
    """A whole screen that a plugin draws."""

    name: str
    """Small letters, digits and hyphens."""
    create_screen: Callable[[Ui, str], Any]
    """Makes its Textual `Screen`, in the screen's thread, from an argument; may import textual.
    Escape closes it, unless it means something else there."""

    def check(self) -> None:
        """Check the fields, when it is registered: one mistake must not cost the others.

        Raises:
            ValueError: a field is not valid.
        """
        _check_name(self.name)
        _check_function("open", self.create_screen)


_NAME_PATTERN = re.compile("[a-z][a-z0-9-]{0,29}")


_KEY_PATTERN = re.compile("(ctrl|alt)[+][a-z]|f([2-9]|1[0-2])")


_TERMINAL_ALIASES = {"ctrl+h": "backspace", "ctrl+i": "tab", "ctrl+m": "enter"}
"""What a terminal sends for keys that have names of their own."""


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not _NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"the name {name!r} must be small letters, digits and hyphens, 30 at most, "
            "and begin with a letter"
        )


def _check_not_blank(field_name: str, text: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{field_name} must be a few words, not {text!r}")


def _check_function(field_name: str, function: Callable[..., Any]) -> None:
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ValueError(f"{field_name} must be a plain function, not {function!r}")


def _check_key(key: str) -> None:
    if not isinstance(key, str) or (key and not _KEY_PATTERN.fullmatch(key)):
        raise ValueError(f"the key {key!r} must be ctrl+ or alt+ and a letter, or f2 to f12")
    if key in _TERMINAL_ALIASES:
        raise ValueError(f"the key {key!r} is what terminals send for {_TERMINAL_ALIASES[key]}")
