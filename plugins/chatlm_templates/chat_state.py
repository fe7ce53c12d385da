"""The template that a chat uses, as stored with the chat, and what it does to messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatlm import ChatlmError, Conversation, Sampling, TextFacts, UsageError
from chatlm.plugin_kit.chat_state import plugin_state, text_value
from chatlm_templates import PLUGIN
from chatlm_templates.library import load_template
from chatlm_templates.rendering import render_template


@dataclass(frozen=True)
class SelectedTemplate:
    """The template in use and its values, as stored with the chat."""

    name: str
    values: Mapping[str, str] = field(default_factory=dict)
    """Given values of its variables, without the input variable."""
    system: str = ""
    """The system prompt that the template set; empty if it has none."""
    previous_system: str = ""
    """The chat's system prompt before it."""

    @property
    def plugin_data(self) -> dict[str, Any]:
        """The stored values."""
        return {
            "template": self.name,
            "values": dict(self.values),
            "system": self.system,
            "before": self.previous_system,
        }


def selected_template(plugin_data: Mapping[str, Any]) -> SelectedTemplate | None:
    """Read the template in use from stored values; None without one.

    A chat may come from a file that someone else wrote, so values of the wrong type are ignored.
    """
    name, values = text_value(plugin_data, "template", None), plugin_data.get("values")
    if name is None:
        return None
    items = values.items() if isinstance(values, Mapping) else ()
    return SelectedTemplate(
        name=name,
        values={key: text for key, text in items if isinstance(text, str)},
        system=text_value(plugin_data, "system", ""),
        previous_system=text_value(plugin_data, "before", ""),
    )


def selected_template_in_chat(conversation: Conversation) -> SelectedTemplate | None:
    """Return the template that a chat uses."""
    return selected_template(plugin_state(conversation, PLUGIN))


def write_message(
    conversation: Conversation, raw_input: str, facts: TextFacts
) -> str | UsageError | None:
    """Write the message with the chat's template; None leaves the text as typed.

    If the template is missing or invalid, or the text is not a valid value, the message is refused,
    since the text alone would be a different question.
    """
    selected = selected_template_in_chat(conversation)
    if selected is None or raw_input == plugin_state(conversation, PLUGIN).get("as_is"):
        return None
    try:
        template = load_template(selected.name)
        if not template.takes_input:
            return None
        if message := render_template(template, selected.values, raw_input, facts).user:
            return message
        raise UsageError(f"The template {template.name} gives an empty message for this text.")
    except ChatlmError as error:
        return UsageError(
            f"Nothing was sent. {error.message}",
            hint="In the chat, /template changes the template, /template off stops using it.",
        )


def template_sampling(conversation: Conversation) -> Sampling:
    """Return the sampling of the chat's template; `write_message` reports an invalid one."""
    selected = selected_template_in_chat(conversation)
    try:
        return load_template(selected.name).sampling if selected else Sampling()
    except ChatlmError:
        return Sampling()
