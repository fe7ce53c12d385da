"""Form fields for a template's variables, checked while typing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.document._document import EditResult
from textual.document._edit import Edit
from textual.widget import Widget
from textual.widgets import Checkbox, Input, Select, Static, TextArea

from chatlm import UsageError, escape_controls
from chatlm_templates.screens import preview
from chatlm_templates.template import Template, Variable


class SafeInput(Input):
    """Single-line input in which control characters are escaped, so that all text is visible."""

    DEFAULT_CSS = """
    SafeInput {
        border: none;
        height: 1;
        padding: 0 1;
        background: $foreground 8%;

        &:focus { border: none; background: $primary 25%; }
        & > .input--placeholder { color: $text-muted; }
    }
    """

    def validate_value(self, value: str) -> str:
        """Escape control characters however the text was entered."""
        return escape_controls(value).replace("\n", " ").replace("\t", " ")


class FieldInput(SafeInput):
    """Single-line field; Enter uses the template."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "submit", "use", show=False)]


class FieldTextArea(TextArea):
    """Multi-line field with escaped control characters; Tab moves to the next field."""

    DEFAULT_CSS = """
    FieldTextArea {
        height: 5;
        border: none;
        padding: 0 1;
        background: $foreground 8%;
        &:focus { border: none; background: $primary 25%; }
    }
    """

    def load_text(self, text: str) -> None:
        """Replace the text."""
        super().load_text(_clean_lines(text))

    def edit(self, edit: Edit) -> EditResult:
        """Escape control characters however the text was entered."""
        return super().edit(dataclasses.replace(edit, text=_clean_lines(edit.text)))


class VariableField(Vertical):
    """A variable of the form: its description, the control for its value, and an error line.

    Args:
        variable: the variable.
        template: its template.
        value: the initial value; None for the default.
    """

    DEFAULT_CSS = """
    VariableField {
        height: auto;
        margin: 0 0 1 0;
        & > .name { height: auto; }
        & > .wrong { display: none; height: auto; color: $text-error; }
        & > .wrong.-shown { display: block; }
        & Select { height: 1; }
        & SelectCurrent { border: none; padding: 0 1; background: $foreground 8%; }
        & Select:focus SelectCurrent { border: none; background: $primary 25%; }
        & Checkbox { border: none; padding: 0 1; background: $foreground 8%; width: 1fr; }
        & Checkbox:focus { border: none; background: $primary 25%; }
        & Checkbox:focus > .toggle--label { background: transparent; color: $foreground; }
    }
    """

    def __init__(self, variable: Variable, template: Template, value: str | None) -> None:
        super().__init__()
        self.variable = variable
        self._template = template
        self._control = _build_control(variable, value)

    def compose(self) -> Iterable[Widget]:
        """Yield description, control and error line."""
        yield Static(preview.variable_content(self.variable, self._template), classes="name")
        yield self._control
        yield Static(classes="wrong")

    @property
    def text(self) -> str:
        """The value as text; empty if none is given."""
        match self._control:
            case Checkbox(value=checked):
                return "true" if checked else "false"
            case Select(value=value):
                return value if isinstance(value, str) else ""
            case Input(value=text) | TextArea(text=text):
                return text
        return ""

    def focus_control(self) -> None:
        """Focus the control."""
        self._control.focus()

    def check(self) -> bool:
        """Return whether the value is valid, and show the error if not."""
        message = ""
        if self.text:
            try:
                self.variable.parse(self.text)
            except UsageError as error:
                message = error.message
        self.show_error(message)
        return not message

    def show_error(self, message: str) -> None:
        """Show an error; an empty text removes it."""
        line = self.query_one(".wrong", Static)
        line.set_class(bool(message), "-shown")
        line.update(Content(escape_controls(message)))


def _build_control(variable: Variable, value: str | None) -> Widget:
    default = "" if variable.default is None else preview.format_default(variable.default)
    if variable.type == "boolean":
        return Checkbox(Content("yes"), (value or default) == "true")
    if variable.type == "choice":
        options = [(Content(escape_controls(choice)), choice) for choice in variable.choices]
        selected = value if value in variable.choices else variable.default
        if selected is None:
            return Select(options, prompt="choose one")
        return Select(options, value=str(selected), allow_blank=False)
    if variable.type == "multiline":
        area = FieldTextArea(
            value or "", placeholder=Content(escape_controls(str(variable.default or "")))
        )
        area.tab_behavior, area.highlight_cursor_line = "focus", False
        return area
    return FieldInput(value or "", placeholder=default)


def _clean_lines(text: str) -> str:
    return escape_controls(text.replace("\r\n", "\n").replace("\r", "\n"))
