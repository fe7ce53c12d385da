"""One setting of a plugin on one line: a field, where its value comes from, what it must be."""

from __future__ import annotations

from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Select, Static, Switch

from chatlm.plugins.fields import Field
from chatlm.text import one_line
from chatlm.tui.widgets.line_input import VisibleInput, on_one_line

YES, NO = "true", "false"


class FieldRow(Horizontal):
    """A switch for yes or no, a list for a choice, a line for anything else.

    Args:
        field: the setting as it is now.
    """

    DEFAULT_CSS = """
    FieldRow {
        height: 1;
        & > .name { width: 20; }
        & > .control { width: 24; height: 1; }
        & > Input { background: $foreground 8%; }
        & > Input:focus { background: $primary 30%; }
        & > Input > .input--placeholder { color: $text-muted; }
        & > Switch.control { width: 8; margin: 0 18 0 0; border: none; padding: 0; }
        & > Switch:focus { border: none; background-tint: $foreground 20%; }
        & > .source { width: 12; margin: 0 0 0 2; color: $text-muted; }
        & > .wanted {
            width: 1fr;
            color: $text-muted;
            text-wrap: nowrap;
            text-overflow: ellipsis;
        }
        &.-said > .source { color: $text-primary; }
        &.-wrong > .wanted, &.-wrong > Input { color: $text-error; }
    }
    """

    @dataclass
    class Typed(Message):
        """The text in the line changed."""

        row: FieldRow

    @dataclass
    class Done(Message):
        """The person has chosen, or has left the line."""

        row: FieldRow

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field
        self.wrong = ""
        """Why what is typed cannot be taken; empty when it can."""
        self.control = _control(field)
        self.control.add_class("control")

    def compose(self) -> ComposeResult:
        """All on one line."""
        yield Static(Content(one_line(self.field.key.replace("_", " "), 21)), classes="name")
        yield self.control
        yield Static(classes="source")
        yield Static(classes="wanted")

    def on_mount(self) -> None:
        """Say what holds."""
        self.show(self.field)

    @property
    def text(self) -> str:
        """The value as it stands in the field; empty leaves it to the default."""
        match self.control:
            case Switch(value=on):
                text = YES if on else NO
            case Select(value=str(chosen)):
                text = chosen
            case Input(value=typed):
                text = typed
            case _:
                text = ""
        return text

    @property
    def changed(self) -> bool:
        """Whether the field says something else than what is saved."""
        return self.text != shown(self.field)

    def show(self, field: Field, *, keep: bool = False) -> None:
        """Show the setting as it is now.

        Args:
            field: the setting.
            keep: leave alone what is being typed.
        """
        self.field = field
        if not keep:
            self._fill()
        self.set_class(field.source != "default", "-said")
        self.query_one(".source", Static).update(Content(field.source))

    def _fill(self) -> None:
        """Put what holds into the field."""
        field = self.field
        self.blame("")
        with self.prevent(Input.Changed, Switch.Changed, Select.Changed):
            match self.control:
                case Switch() as switch:
                    switch.value = shown(field) == YES
                case Select() as select:
                    select.value = shown(field)
                case Input() as line:
                    line.value = shown(field)
                    line.placeholder = on_one_line(field.held)

    def blame(self, wrong: str) -> None:
        """Mark a value that cannot be taken; an empty reason takes the mark away."""
        self.wrong = wrong
        self.set_class(bool(wrong), "-wrong")
        mark = "✗ " if wrong else ""
        wanted = one_line(self.field.wanted, 200)
        if isinstance(self.control, Switch):
            wanted = "on" if self.control.value else "off"
        self.query_one(".wanted", Static).update(Content(f"{mark}{wanted}"))

    @on(Input.Changed)
    def _type(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Typed(self))

    @on(Input.Submitted)
    @on(Input.Blurred)
    @on(Switch.Changed)
    @on(Select.Changed)
    def _end(self, event: Message) -> None:
        event.stop()
        if self.changed:
            self.post_message(self.Done(self))


def shown(field: Field) -> str:
    """What stands in the field: what holds of a choice, else only what config.toml says."""
    if not field.choices:
        return on_one_line(field.said or "")
    return field.held if field.held in field.choices else field.default


def _control(field: Field) -> Switch | Select[str] | VisibleInput:
    if field.choices == (YES, NO):
        return Switch(shown(field) == YES, animate=False)
    if field.choices:
        options = [(Content(one_line(choice, 40)), choice) for choice in field.choices]
        return Select(options, value=shown(field), allow_blank=False, compact=True)
    return VisibleInput(shown(field), compact=True)
