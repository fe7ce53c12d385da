"""A template's variables to fill in, with the prompt that comes of them and what it costs."""

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
    """Uses the template in the chat that is shown, or in a new one.

    Args:
        ui: the chat's screen.
        template: the one to fill in.
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
        """What a preview costs is known, or that it is not."""

        tokens: int | None
        filled: FilledTemplate

    def __init__(self, ui: Ui, template: Template) -> None:
        super().__init__(f"Template {one_line(template.name, 60)}")
        self._ui = ui
        self._template = template
        self._fields: list[VariableField] = []
        self._filled = FilledTemplate("", ())

    def body(self) -> Iterable[Widget]:
        """The fields, with what the chat has for them already, and the prompt beside them."""
        choice = selected_template(self._ui.state)
        given = choice.values if choice and choice.name == self._template.name else {}
        self._fields = [
            VariableField(variable, self._template, given.get(variable.name))
            for variable in sorted(self._template.form_variables, key=self._is_input)
        ]
        with Container(classes="sides"):
            with VerticalScroll(classes="left fields", can_focus=False):
                yield from self._fields
                if not self._fields:
                    yield Static("This template asks for nothing.")
            with Vertical(classes="right"):
                yield Static(id="cost")
                with VerticalScroll(id="preview", can_focus=False):
                    yield Static(id="made")

    def on_mount(self) -> None:
        """Begin in the first field."""
        self._update_preview()
        if self._fields:
            self._fields[0].focus_control()

    def action_use(self, in_new_chat: bool) -> None:
        """Let a chat go by the template, unless something is missing or wrong."""
        wrong = [field for field in self._fields if not field.check()]
        for field in self._fields:
            if not field.text and field.variable.required and not self._is_input(field.variable):
                field.show_error("Fill this in.")
                wrong.append(field)
        if wrong:
            wrong[0].focus_control()
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
        """Whether it takes what is typed in the chat, so that nothing need be typed here."""
        return self._template.takes_input and variable.name == self._template.input

    def _values(self) -> dict[str, str]:
        return {field.variable.name: field.text for field in self._fields if field.text}

    def _update_preview(self) -> None:
        """Draw the prompt as far as it is filled in, and have its tokens counted."""
        right = {field.variable.name: field.text for field in self._fields if field.check()}
        try:
            made = actions.preview_prompt(
                self._template, {k: text for k, text in right.items() if text}
            )
        except UsageError as error:
            self.show_error(error)
            return
        self._filled = made
        self.query_one("#made", Static).update(preview.prompt_content(made))
        self.run_worker(lambda: self._count_tokens(made), thread=True, exclusive=True, group="cost")

    def _count_tokens(self, filled: FilledTemplate) -> None:
        """In a thread: counting may take its time with a long text."""
        engine, messages = self._ui.engine, []
        if filled.system:
            messages.append(ChatMessage("system", filled.system))
        if filled.user:
            messages.append(ChatMessage("user", filled.user))
        tokens = engine.count_tokens(messages) if engine and messages else None
        self.post_message(self.TokensCounted(tokens if engine else None, filled))


def describe_cost(tokens: int | None) -> str:
    """What the prompt takes of the context."""
    if tokens is None:
        return "What it costs is known once the model is loaded."
    return f"{tokens:,} {'token' if tokens == 1 else 'tokens'} with what is filled in here"
