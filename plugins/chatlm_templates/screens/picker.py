"""The list of templates, filtered by typing, with a preview of the highlighted one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.cells import set_cell_size
from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from chatlm import ChatlmError, Ui, UsageError, one_line
from chatlm_templates import actions, library
from chatlm_templates.chat_state import selected_template
from chatlm_templates.screens import preview
from chatlm_templates.screens.fields import SafeInput
from chatlm_templates.screens.preview import TemplateCard
from chatlm_templates.slash_commands import FORM_SCREEN

OFF_ID = ""
"""The id of the row that stops using a template."""

NAME_WIDTH = 21
"""Width of the names, in cells."""


class TemplatePicker(TemplateCard):
    """The list of templates; Enter opens a template's form.

    Args:
        ui: the chat screen's API.
        name: the template to highlight first; empty for the one in use.
    """

    DEFAULT_CSS = """
    TemplatePicker {
        & SafeInput { margin: 0 0 1 0; }
        & OptionList {
            height: 1fr;
            border: none;
            padding: 0;
            background: $surface;
            text-wrap: nowrap;
            text-overflow: ellipsis;
            & > .option-list--option-highlighted {
                background: $primary 18%; color: $foreground; text-style: none;
            }
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "up", show=False),
        Binding("down", "move(1)", "down", show=False),
        Binding("escape", "dismiss", "close"),
    ]

    def __init__(self, ui: Ui, name: str = "") -> None:
        super().__init__("Templates")
        self._ui = ui
        selected = selected_template(ui.state)
        self._active_template = selected.name if selected else ""
        self._initial_template = name or self._active_template
        self._library = library.load_library()
        self._own_names = {
            name for name, path in library.template_files().items() if library.is_own(path)
        }
        self._errors_by_name = {error.path.stem: error for error in self._library.errors}

    def body(self) -> Iterable[Widget]:
        """Yield the filter, the list and the preview."""
        yield TemplateFilter(placeholder="Type to filter")
        with Container(classes="sides"):
            with Vertical(classes="left"):
                rows = OptionList(markup=False)
                rows.can_focus = False
                yield rows
            with VerticalScroll(id="preview", classes="right", can_focus=False):
                yield Static(id="marked")

    def on_mount(self) -> None:
        """Show all templates."""
        self._update_list("")

    def action_move(self, step: int) -> None:
        """Move the highlight while the filter keeps the focus."""
        rows = self.query_one(OptionList)
        if step > 0:
            rows.action_cursor_down()
        else:
            rows.action_cursor_up()

    @on(Input.Changed)
    def _handle_filter(self, event: Input.Changed) -> None:
        event.stop()
        self.show_error(None)
        self._update_list(event.value)

    @on(OptionList.OptionHighlighted)
    def _handle_highlight(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._show_details(event.option_id)

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _handle_selection(self, event: Input.Submitted | OptionList.OptionSelected) -> None:
        event.stop()
        option = self.query_one(OptionList).highlighted_option
        if option is None or option.id is None:
            return
        try:
            self._open_template(option.id)
        except ChatlmError as error:
            self.show_error(error)
        else:
            self.dismiss()

    def _open_template(self, name: str) -> None:
        if name in self._errors_by_name:
            raise UsageError(f"{name} is invalid.", hint=f"Fix it: chatlm templates edit {name}")
        if name == OFF_ID:
            actions.stop_using_template(self._ui)
        else:
            self._ui.open_screen(FORM_SCREEN, name)

    def _update_list(self, query: str) -> None:
        words = query.lower().split()
        names = sorted([*self._library.templates, *self._errors_by_name])
        options = []
        if self._active_template and not words:
            off = f"No template: stop using {one_line(self._active_template, 30)} in this chat"
            options.append(Option(Content.styled(off, preview.MUTED), id=OFF_ID))
        for name in names:
            row = self._row(name)
            if all(word in row.plain.lower() for word in words):
                options.append(Option(row, id=name))
        rows = self.query_one(OptionList)
        rows.set_options(options)
        ids = [option.id for option in options]
        rows.highlighted = (
            ids.index(self._initial_template)
            if self._initial_template in ids and not words
            else 0
            if ids
            else None
        )
        if not ids:
            self._show_details(None)

    def _row(self, name: str) -> Content:
        style = "bold" if name == self._active_template else ""
        if error := self._errors_by_name.get(name):
            problem = f"line {error.line}: {error.problem}" if error.line else error.problem
            description = (one_line(problem, 200), "$text-error")
        else:
            marks = [self._library.templates[name].description]
            if name == self._active_template:
                marks.insert(0, "in use ·")
            if name in self._own_names:
                marks.append("(yours)")
            description = (one_line(" ".join(marks), 200), preview.MUTED)
        return Content.assemble(
            (set_cell_size(one_line(name, NAME_WIDTH - 1), NAME_WIDTH), style), description
        )

    def _show_details(self, name: str | None) -> None:
        if name is None:
            details = Content("No template found. Create one: `chatlm templates new NAME`")
        elif name == OFF_ID:
            details = Content("From the next message on, your text is sent as typed.")
        elif name in self._errors_by_name:
            details = preview.error_content(self._errors_by_name[name])
        else:
            details = preview.template_content(
                self._library.templates[name], own=name in self._own_names
            )
        self.query_one("#marked", Static).update(details)
        self.query_one("#preview").scroll_home(animate=False)


class TemplateFilter(SafeInput):
    """The filter; Enter selects the highlighted template."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "submit", "choose")]
