"""The settings of one plugin as a form; what is right is saved as soon as its field is left."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from functools import partial
from typing import ClassVar

from textual import events, on
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.errors import ChatlmError
from chatlm.plugins.fields import Field, Fields
from chatlm.text import one_line, visible
from chatlm.tui.card import Card
from chatlm.tui.widgets.field_row import FieldRow
from chatlm.tui.writes import Writes


class PluginForm(Card[None]):
    """One row a setting. The plugin's own checks run in a thread, since nobody knows what they do.

    Args:
        fields: the settings.
    """

    DEFAULT_CSS = """
    PluginForm {
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
        Binding("ctrl+r", "reset", "back to the default"),
        Binding("escape", "leave", "close"),
    ]

    def __init__(self, fields: Fields) -> None:
        super().__init__()
        self.CARD_TITLE = f"Settings of {one_line(fields.plugin, 40)}"
        self._fields = fields
        self._writes = Writes()

    def body(self) -> Iterable[Widget]:
        """The rows, what the one with the focus means, when it counts."""
        yield VerticalScroll(can_focus=False)
        yield Static(id="meaning")
        yield Static(
            "Saved in config.toml when you leave a field; it counts from the next start.", id="when"
        )

    async def on_mount(self) -> None:
        """Show what is set now."""
        try:
            fields = await self._writes.put(self._fields.all)
        except ChatlmError as error:
            self.complain(error)
            return
        rows = [FieldRow(field) for field in fields]
        await self.query_one(VerticalScroll).mount_all(rows)
        rows[0].control.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what config.toml says can be taken back."""
        if action == "reset":
            row = self._row
            return row is not None and (row.field.said is not None or row.changed)
        return True

    def action_reset(self) -> None:
        """Take the setting out of the file, so that the default holds."""
        if row := self._row:
            self._save(row, "")

    def action_leave(self) -> None:
        """Save what was typed last, say what is not taken, close."""
        if (row := self._row) and row.changed:
            self._save(row, row.text)
        self.run_worker(self._leave(), exit_on_error=False)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Explain the field that has the focus."""
        self._explain()
        self.refresh_bindings()

    @on(FieldRow.Typed)
    def _type(self, event: FieldRow.Typed) -> None:
        event.stop()
        row = event.row
        checking = self._writes.put(partial(self._fields.check, row.field.key, row.text))
        self.run_worker(self._follow_check(row, row.text, checking), exit_on_error=False)

    @on(FieldRow.Done)
    def _done(self, event: FieldRow.Done) -> None:
        event.stop()
        self._save(event.row, event.row.text)

    @property
    def _row(self) -> FieldRow | None:
        """The row that has the focus."""
        parent = self.focused.parent if self.focused else None
        return parent if isinstance(parent, FieldRow) else None

    def _save(self, row: FieldRow, text: str) -> None:
        saving = self._writes.put(partial(self._fields.save, row.field.key, text))
        self.run_worker(self._follow_save(row, text, saving), exit_on_error=False)

    async def _follow_check(self, row: FieldRow, text: str, checking: Awaitable[None]) -> None:
        wrong = ""
        try:
            await checking
        except ChatlmError as error:
            wrong = error.message
        if row.text == text:
            row.blame(wrong)
            self._explain()
            self.refresh_bindings()

    async def _follow_save(self, row: FieldRow, text: str, saving: Awaitable[Field]) -> None:
        try:
            field = await saving
        except ChatlmError as error:
            row.blame(error.message)
        else:
            row.show(field, keep=row.text not in ("", text) and bool(text))
        self._explain()
        self.refresh_bindings()

    async def _leave(self) -> None:
        await self._writes.put(lambda: None)  # what was saved before is shown by then
        for row in self.query(FieldRow):
            if row.wrong:
                stays = f"{row.field.key} stays {row.field.held or 'empty'}: {row.wrong}"
                self.notify(visible(stays), severity="warning", markup=False)
        self.dismiss()

    def _explain(self) -> None:
        row = self._row
        if row is None:
            return
        line = self.query_one("#meaning", Static)
        line.set_class(bool(row.wrong), "-wrong")
        line.update(Content(visible(row.wrong or meaning(row.field))))


def meaning(field: Field) -> str:
    """What the setting does, what it must be, what holds where nothing is said."""
    parts = [field.help, field.wanted, f"default: {field.default or 'nothing'}"]
    if field.variable:
        parts.append(f"{field.variable} in the environment goes before the file")
    return f"{field.key}: {' · '.join(filter(None, parts))}"
