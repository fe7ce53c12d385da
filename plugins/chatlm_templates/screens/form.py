"""The form of a template, with a preview of the prompt and its token count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Checkbox, Input, Select, Static, TextArea

from chatlm import ChatlmError, Ui, UsageError, one_line
from chatlm import Message as ChatMessage
from chatlm_templates import actions
from chatlm_templates.chat_state import selected_template
from chatlm_templates.rendering import FilledTemplate
from chatlm_templates.screens import preview
from chatlm_templates.screens.fields import VariableField
from chatlm_templates.screens.preview import TemplateCard
from chatlm_templates.slash_commands import PICKER_SCREEN
from chatlm_templates.template import Template, Variable


class TemplateForm(TemplateCard):
    """The form of a template, which is then used in the current chat or a new one.

    Args:
        ui: the chat screen's API.
        template: the template to fill in.
    """

    DEFAULT_CSS = """
    TemplateForm {
        & #cost { height: auto; color: $text-muted; margin: 0 0 1 0; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "use(False)", "use in this chat", priority=True),
        Binding("ctrl+n", "use(True)", "new chat", priority=True),
        Binding("enter", "use(False)", "use", show=False),
        Binding("tab", "app.focus_next", "next field"),
        Binding("escape", "back", "back"),
    ]

    @dataclass
    class TokensCounted(Message):
        """The tokens of a preview were counted; None without a loaded model."""

        tokens: int | None
        filled: FilledTemplate

    def __init__(self, ui: Ui, template: Template) -> None:
        super().__init__(f"Template {one_line(template.name, 60)}")
        self._ui = ui
        self._template = template
        self._fields: list[VariableField] = []
        self._filled = FilledTemplate("", ())

    def body(self) -> Iterable[Widget]:
        """Yield the fields with their current values, and the preview next to them."""
        selected = selected_template(self._ui.state)
        in_use = selected is not None and selected.name == self._template.name
        values = selected.values if selected and in_use else {}
        self._fields = [
            VariableField(variable, self._template, values.get(variable.name))
            for variable in sorted(self._template.form_variables, key=self._is_input)
        ]
        with Container(classes="sides"):
            with VerticalScroll(classes="left fields", can_focus=False):
                yield from self._fields
                if not self._fields:
                    yield Static("This template has no variables.")
            with Vertical(classes="right"):
                yield Static(id="cost")
                with VerticalScroll(id="preview", can_focus=False):
                    yield Static(id="made")

    def on_mount(self) -> None:
        """Focus the first field."""
        self._update_preview()
        if self._fields:
            self._fields[0].focus_control()

    def action_use(self, in_new_chat: bool) -> None:
        """Use the template in a chat, unless a value is missing or invalid."""
        invalid = [field for field in self._fields if not field.check()]
        for field in self._fields:
            if not field.text and field.variable.required and not self._is_input(field.variable):
                field.show_error("Required.")
                invalid.append(field)
        if invalid:
            invalid[0].focus_control()
            return
        try:
            actions.use_template(self._ui, self._template, self._values(), in_new_chat=in_new_chat)
        except ChatlmError as error:
            self.show_error(error)
        else:
            self.dismiss()

    def action_back(self) -> None:
        """Go back to the list."""
        self._ui.open_screen(PICKER_SCREEN, self._template.name)
        self.dismiss()

    @on(Input.Submitted)
    def _handle_submit(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_use(False)

    @on(Input.Changed)
    @on(TextArea.Changed)
    @on(Select.Changed)
    @on(Checkbox.Changed)
    def _handle_change(self, event: Message) -> None:
        event.stop()
        self.show_error(None)
        self._update_preview()

    @on(TokensCounted)
    def _handle_tokens_counted(self, event: TokensCounted) -> None:
        event.stop()
        if event.filled is self._filled:
            self.query_one("#cost", Static).update(Content(describe_cost(event.tokens)))

    def _is_input(self, variable: Variable) -> bool:
        """Return whether a variable takes what is typed in the chat, and may be empty here."""
        return self._template.takes_input and variable.name == self._template.input

    def _values(self) -> dict[str, str]:
        return {field.variable.name: field.text for field in self._fields if field.text}

    def _update_preview(self) -> None:
        """Show the prompt as far as it is filled in, and count its tokens."""
        values = {
            field.variable.name: field.text
            for field in self._fields
            if field.check() and field.text
        }
        try:
            filled = actions.preview_prompt(self._template, values)
        except UsageError as error:
            self.show_error(error)
            return
        self._filled = filled
        self.query_one("#made", Static).update(preview.prompt_content(filled))
        self.run_worker(
            lambda: self._count_tokens(filled), thread=True, exclusive=True, group="cost"
        )

    def _count_tokens(self, filled: FilledTemplate) -> None:
        """Count the tokens of the preview; runs in a thread, since long texts take a while."""
        engine, messages = self._ui.engine, []
        if filled.system:
            messages.append(ChatMessage("system", filled.system))
        if filled.user:
            messages.append(ChatMessage("user", filled.user))
        tokens = engine.count_tokens(messages) if engine and messages else None
        self.post_message(self.TokensCounted(tokens if engine else None, filled))


def describe_cost(tokens: int | None) -> str:
    """Describe the token count of the prompt."""
    if tokens is None:
        return "The token count is shown once the model is loaded."
    return f"{tokens:,} {'token' if tokens == 1 else 'tokens'} with the values filled in here"
