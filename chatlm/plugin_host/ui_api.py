"""Slash commands, panels and screens of plugins, and the `Ui` that plugins get."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from chatlm.types.conversations import Conversation, Turn
from chatlm.types.engine import Engine
from chatlm.types.messages import Passage
from chatlm.types.parts import PreparedImage
from chatlm.types.progress import ProgressReporter
from chatlm.types.sampling import Sampling
from chatlm.types.setups import SideChats


class Ui(Protocol):
    """The chat UI for one plugin; every method may be called in any thread but `shutdown`'s.

    Methods return at once; the UI follows soon afterwards.
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
        """The passages retrieved for `turn`."""
        ...

    @property
    def engine(self) -> Engine | None:
        """The loaded model; None while none is loaded."""
        ...

    @property
    def state(self) -> Mapping[str, Any]:
        """The plugin's data of the chat."""
        ...

    def set_state(self, **values: Any) -> None:
        """Store values with the chat, in addition to the plugin's others; None removes one.

        Args:
            values: JSON values.
        """

    def notify(self, text: str, *, warning: bool = False) -> None:
        """Show a short notice over the chat."""

    def show_status(self, text: str) -> None:
        """Show a short text next to the model's name in the status bar, replacing the plugin's
        previous one; empty removes it. It stays when another chat is opened."""

    def insert_text(self, text: str) -> None:
        """Insert a text into the composer at the cursor."""

    def send(self, text: str) -> None:
        """Send a message, as if the user had typed it; refused with a notice while a reply is
        being generated."""

    def read_message(self, text: str) -> tuple[str, tuple[PreparedImage, ...]]:
        """Return what the composer would send for a text: with names in place of mentions such as
        `@photo.png`, followed by the files' texts, and the images.

        Reads files and addresses, so call it in a worker thread.

        Raises:
            UsageError: a file cannot be read.
        """
        ...

    def set_chat(
        self,
        *,
        system: str | None = None,
        sampling: Sampling | None = None,
        tools: Sequence[str] = (),
    ) -> None:
        """Change the system prompt or the sampling of the chat; None leaves it unchanged.

        Args:
            system: the system prompt.
            sampling: the chat's own sampling settings.
            tools: names of tools and groups to offer in the chat: alone where it had no tools.
        """

    def new_chat(
        self,
        *,
        system: str = "",
        sampling: Sampling | None = None,
        state: Mapping[str, Any] | None = None,
        model: str = "",
        message: str = "",
        tools: Sequence[str] = (),
    ) -> None:
        """Show a new chat.

        Args:
            system: its system prompt; empty for the one in the config.
            sampling: its own sampling settings.
            state: the plugin's data of the chat.
            model: switch to this model, like `/model`; empty for the current one.
            message: sent at once; empty for none.
            tools: names of tools and groups to offer in it: alone unless tools are on in all chats.
        """

    def open_screen(self, name: str, argument: str = "") -> None:
        """Show a screen that a plugin registered."""

    def show_images(self, images: Sequence[PreparedImage]) -> None:
        """Show images over the chat, one at a time, as large as the terminal allows.

        They are not stored.

        Args:
            images: at least one, from `read_image`.
        """

    def open_panel(self, name: str) -> None:
        """Show a panel that a plugin registered; close it if it is already shown."""

    def side_chats(self, report: Callable[[str], None]) -> SideChats:
        """Create side chats, which share the loaded model if they use the same one.

        Args:
            report: called with a short status while a model is loaded.
        """
        ...

    def progress(self, title: str) -> AbstractContextManager[ProgressReporter]:
        """Show the progress of long work with a bar; the user can cancel it."""
        ...


@dataclass(frozen=True)
class SlashCommand:
    """A plugin's action: a slash command, an entry in the palette and, if wanted, a key."""

    name: str
    """The name without the slash: lower-case letters, digits and hyphens."""
    help: str
    """A short description."""
    run: Callable[[Ui, str], None]
    """Called with the text after the name, in a thread of its own. The message of
    a `ChatlmError` that it raises is shown; any other exception is the plugin's failure."""
    argument: str = ""
    """The argument's placeholder, such as `NAME`; in brackets if it is optional."""
    key: str = ""
    """`ctrl+` or `alt+` and a letter, or `f2` to `f12`; users can rebind it in the
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
"""Codes that terminals send for named keys."""


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
