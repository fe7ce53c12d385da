"""The look of the screen: its colours, tried while one moves over them, and how much it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Button, OptionList
from textual.widgets.option_list import Option

IN_USE = " · in use"


class ThemeList(OptionList):
    """The names of the themes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "take this theme")]


class ThemePicker(Vertical):
    """Moving over a theme shows it, Enter takes it, leaving brings back the one in use.

    Args:
        reduced_motion: whether the screen keeps still now.
    """

    DEFAULT_CSS = """
    ThemePicker {
        height: 1fr;
        & > OptionList { height: 1fr; border: none; padding: 0; background: $surface; }
        & > OptionList:focus { border: none; background-tint: $foreground 0%; }
        & > Button { margin: 1 0 0 0; }
    }
    """

    @dataclass
    class ThemeChosen(Message):
        """The person wants these colours."""

        theme: str

    @dataclass
    class MotionChosen(Message):
        """The person wants the screen to keep still, or no longer."""

        reduced: bool

    def __init__(self, reduced_motion: bool) -> None:
        super().__init__()
        self._reduced = reduced_motion
        self._chosen = ""
        self._names: list[str] = []

    def compose(self) -> ComposeResult:
        """The themes, then the movement."""
        self._chosen = self.app.theme
        self._names = sorted(self.app.available_themes)
        themes = ThemeList(*self._options(), markup=False, id="themes")
        themes.highlighted = self._names.index(self._chosen)
        yield themes
        yield Button(motion(self._reduced), compact=True)

    def restore(self) -> None:
        """Show the theme in use again."""
        self.app.theme = self._chosen

    @on(OptionList.OptionHighlighted)
    def _try(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if event.option_list.has_focus:
            self.app.theme = self._names[event.option_index]

    @on(OptionList.OptionSelected)
    def _choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._chosen = self.app.theme = self._names[event.option_index]
        event.option_list.set_options(self._options())
        event.option_list.highlighted = event.option_index
        self.post_message(self.ThemeChosen(self._chosen))

    @on(Button.Pressed)
    def _move(self, event: Button.Pressed) -> None:
        event.stop()
        self._reduced = not self._reduced
        event.button.label = motion(self._reduced)
        self.post_message(self.MotionChosen(self._reduced))

    def _options(self) -> list[Option]:
        return [Option(name + IN_USE * (name == self._chosen)) for name in self._names]


def motion(reduced: bool) -> str:
    """The state in words."""
    return f"Reduced motion: {'on, no blinking, no smooth scrolling' if reduced else 'off'}"
