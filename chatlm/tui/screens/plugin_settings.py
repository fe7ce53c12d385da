"""The settings form of a plugin."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Select, Static, Switch

from chatlm.config.form import SettingField, SettingsForm
from chatlm.errors import ChatlmError
from chatlm.text import escape_controls, one_line
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.inputs import VisibleInput, single_line
from chatlm.tui.workers import WriteQueue

YES, NO = "true", "false"


class FieldRow(Horizontal):
    """A setting: a switch for a bool, a select for a choice, an input for anything else.

    Args:
        field: the current setting.
    """

    DEFAULT_CSS = """
    FieldRow {
        height: 1;
        & > .name { width: 20; }
        & > .control { width: 24; height: 1; }
        & > Input { background: $foreground 8%; }
        & > Input:focus { background: $primary 25%; }
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
        &.-customized > .source { color: $text-primary; }
        &.-wrong > .wanted, &.-wrong > Input { color: $text-error; }
    }
    """

    @dataclass
    class Edited(Message):
        """The text in the line changed."""

        row: FieldRow

    @dataclass
    class Committed(Message):
        """The user chose a value or left the input."""

        row: FieldRow

    def __init__(self, field: SettingField) -> None:
        super().__init__()
        self.field = field
        self.error = ""
        """Why the text is invalid; empty if it is valid."""
        self.control = _make_control(field)
        self.control.add_class("control")

    def compose(self) -> ComposeResult:
        """Yield the parts of the row."""
        yield Static(Content(one_line(self.field.key.replace("_", " "), 21)), classes="name")
        yield self.control
        yield Static(classes="source")
        yield Static(classes="wanted")

    def on_mount(self) -> None:
        """Show the value in effect."""
        self.show_field(self.field)

    @property
    def text(self) -> str:
        """The value in the field; empty for the default."""
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
    def is_changed(self) -> bool:
        """Whether the field differs from the saved value."""
        return self.text != field_text(self.field)

    def show_field(self, field: SettingField, *, keep_text: bool = False) -> None:
        """Show the current setting.

        Args:
            field: the setting.
            keep_text: keep text that is being typed.
        """
        self.field = field
        if not keep_text:
            self._reset_control()
        self.set_class(field.source != "default", "-customized")
        self.query_one(".source", Static).update(Content(field.source))

    def _reset_control(self) -> None:
        """Put the value in effect into the field."""
        field = self.field
        self.show_error("")
        with self.prevent(Input.Changed, Switch.Changed, Select.Changed):
            match self.control:
                case Switch() as switch:
                    switch.value = field_text(field) == YES
                case Select() as select:
                    select.value = field_text(field)
                case Input() as line:
                    line.value = field_text(field)
                    line.placeholder = single_line(field.effective)

    def show_error(self, error: str) -> None:
        """Mark an invalid value; an empty reason removes the mark."""
        self.error = error
        self.set_class(bool(error), "-wrong")
        mark = "✗ " if error else ""
        wanted = one_line(self.field.expected, 200)
        if isinstance(self.control, Switch):
            wanted = "on" if self.control.value else "off"
        self.query_one(".wanted", Static).update(Content(f"{mark}{wanted}"))

    @on(Input.Changed)
    def _post_edited(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Edited(self))

    @on(Input.Submitted)
    @on(Input.Blurred)
    @on(Switch.Changed)
    @on(Select.Changed)
    def _post_committed(self, event: Message) -> None:
        event.stop()
        if self.is_changed:
            self.post_message(self.Committed(self))


def field_text(field: SettingField) -> str:
    """The text of the field: the value in effect of a choice, or else the one in config.toml."""
    if not field.choices:
        return single_line(field.configured or "")
    return field.effective if field.effective in field.choices else field.default


def _make_control(field: SettingField) -> Switch | Select[str] | VisibleInput:
    if field.choices == (YES, NO):
        return Switch(field_text(field) == YES, animate=False)
    if field.choices:
        options = [(Content(one_line(choice, 40)), choice) for choice in field.choices]
        return Select(options, value=field_text(field), allow_blank=False, compact=True)
    return VisibleInput(field_text(field), compact=True)


class PluginSettingsScreen(Card[None]):
    """A form with one row per setting. The plugin's checks run in a thread, since they may be slow.

    Args:
        fields: the settings.
    """

    DEFAULT_CSS = """
    PluginSettingsScreen {
        & > .card { width: 96; height: 26; }
        & VerticalScroll { height: 1fr; }
        & #meaning { height: auto; min-height: 2; margin: 1 0 0 0; color: $text-muted; }
        & #meaning.-wrong { color: $text-error; }
        & #when { height: auto; color: $text-muted; }
        &.-low #when { display: none; }
        &.-low #meaning { margin: 0; min-height: 1; }
        &.-narrow FieldRow {
            layout: grid;
            grid-size: 2 2;
            grid-columns: 14 1fr;
            grid-rows: 1;
            height: 2;
            & > .name, & > .control, & > .source { width: 1fr; margin: 0; }
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", "previous", show=False),
        Binding("down,tab", "app.focus_next", "next"),
        Binding("ctrl+r", "reset", "reset to default"),
        Binding("escape", "leave", "close"),
    ]

    def __init__(self, fields: SettingsForm) -> None:
        super().__init__()
        self.CARD_TITLE = f"Settings of {one_line(fields.section.path[-1], 40)}"
        self._fields = fields
        self._write_queue = WriteQueue()

    def body(self) -> Iterable[Widget]:
        """Yield the rows, the description of the focused one, and when changes apply."""
        yield VerticalScroll(can_focus=False)
        yield Static(id="meaning")
        yield Static(
            "Saved in config.toml when you leave a field; it applies from the next start.",
            id="when",
        )

    async def on_mount(self) -> None:
        """Show the current settings."""
        try:
            fields = await self._write_queue.submit(self._fields.fields)
        except ChatlmError as error:
            self.show_error(error)
            return
        rows = [FieldRow(field) for field in fields]
        await self.query_one(VerticalScroll).mount_all(rows)
        rows[0].control.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only values in config.toml can be reset."""
        if action == "reset":
            row = self._focused_row
            return row is not None and (row.field.configured is not None or row.is_changed)
        return True

    def action_reset(self) -> None:
        """Remove the setting from the file, which restores the default."""
        if row := self._focused_row:
            self._save_field(row, "")

    def action_leave(self) -> None:
        """Save pending text, report invalid values, and close."""
        if (row := self._focused_row) and row.is_changed:
            self._save_field(row, row.text)
        self.run_worker(self._save_and_close(), exit_on_error=False)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Describe the focused field."""
        self._show_field_help()
        self.refresh_bindings()

    @on(FieldRow.Edited)
    def _check_edited(self, event: FieldRow.Edited) -> None:
        event.stop()
        row = event.row
        checking = self._write_queue.submit(partial(self._fields.check, row.field.key, row.text))
        self.run_worker(self._await_check(row, row.text, checking), exit_on_error=False)

    @on(FieldRow.Committed)
    def _save_committed(self, event: FieldRow.Committed) -> None:
        event.stop()
        self._save_field(event.row, event.row.text)

    @property
    def _focused_row(self) -> FieldRow | None:
        """The focused row."""
        parent = self.focused.parent if self.focused else None
        return parent if isinstance(parent, FieldRow) else None

    def _save_field(self, row: FieldRow, text: str) -> None:
        saving = self._write_queue.submit(partial(self._fields.save, row.field.key, text))
        self.run_worker(self._await_save(row, text, saving), exit_on_error=False)

    async def _await_check(self, row: FieldRow, text: str, pending: Awaitable[None]) -> None:
        wrong = ""
        try:
            await pending
        except ChatlmError as error:
            wrong = error.message
        if row.text == text:
            row.show_error(wrong)
            self._show_field_help()
            self.refresh_bindings()

    async def _await_save(self, row: FieldRow, text: str, pending: Awaitable[SettingField]) -> None:
        try:
            field = await pending
        except ChatlmError as error:
            row.show_error(error.message)
        else:
            row.show_field(field, keep_text=row.text not in ("", text) and bool(text))
        self._show_field_help()
        self.refresh_bindings()

    async def _save_and_close(self) -> None:
        await self._write_queue.submit(lambda: None)  # what was saved before is shown by then
        for row in self.query(FieldRow):
            if row.error:
                stays = f"{row.field.key} stays {row.field.effective or 'empty'}: {row.error}"
                self.notify(escape_controls(stays), severity="warning", markup=False)
        self.dismiss()

    def _show_field_help(self) -> None:
        row = self._focused_row
        if row is None:
            return
        line = self.query_one("#meaning", Static)
        line.set_class(bool(row.error), "-wrong")
        line.update(Content(escape_controls(row.error or field_help(row.field))))


def field_help(field: SettingField) -> str:
    """Return the description, range and default of a setting."""
    parts = [field.help, field.expected, f"default: {field.default or 'nothing'}"]
    if field.variable:
        parts.append(f"{field.variable} in the environment overrides the file")
    return f"{field.key}: {' · '.join(filter(None, parts))}"
