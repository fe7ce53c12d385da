"""The template that a chat goes by, as it is kept with the chat; it knows no screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatlm import ChatlmError, Conversation, Sampling, TextFacts, UsageError
from chatlm_templates import PLUGIN
from chatlm_templates.library import load_template
from chatlm_templates.rendering import render_template


@dataclass(frozen=True)
class SelectedTemplate:
    """What is kept with the chat."""

    name: str
    """Its name."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Those of its variables that were given, but for the input."""
    system: str = ""
    """The system prompt that it gave the chat; empty where it has none."""
    previous_system: str = ""
    """The chat's system prompt before that."""

    @property
    def plugin_data(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "template": self.name,
            "values": dict(self.values),
            "system": self.system,
            "before": self.previous_system,
        }


def selected_template(plugin_data: Mapping[str, Any]) -> SelectedTemplate | None:
    """Read what is kept with a chat; None where it goes by no template.

    A chat may come from a file that somebody else wrote: what is no text is passed over.
    """
    name, values = plugin_data.get("template"), plugin_data.get("values")
    if not isinstance(name, str):
        return None
    given = values.items() if isinstance(values, Mapping) else ()
    return SelectedTemplate(
        name=name,
        values={key: text for key, text in given if isinstance(text, str)},
        system=_text_or_empty(plugin_data, "system"),
        previous_system=_text_or_empty(plugin_data, "before"),
    )


def selected_template_in_chat(conversation: Conversation) -> SelectedTemplate | None:
    """The template that a chat goes by."""
    return selected_template(conversation.plugin_data.get(PLUGIN, {}))


def write_message(
    conversation: Conversation, raw_input: str, facts: TextFacts
) -> str | UsageError | None:
    """What the chat's template makes of what was typed; None where it leaves that as it is.

    A template that is gone or cannot be used, and words that do not fit it, are refused: sent as
    they are they would be another question.
    """
    choice = selected_template_in_chat(conversation)
    if choice is None or raw_input == conversation.plugin_data[PLUGIN].get("as_is"):
        return None
    try:
        template = load_template(choice.name)
        if not template.takes_input:
            return None
        if made := render_template(template, choice.values, raw_input, facts).user:
            return made
        raise UsageError(f"The template {template.name} makes no message of these words.")
    except ChatlmError as error:
        return UsageError(
            f"Nothing was sent. {error.message}",
            hint="In the chat, /template fills in or changes its template, /template off ends it.",
        )


def template_sampling(conversation: Conversation) -> Sampling:
    """What the chat's template sets; nothing where it cannot be read, which the message tells."""
    choice = selected_template_in_chat(conversation)
    try:
        return load_template(choice.name).sampling if choice else Sampling()
    except ChatlmError:
        return Sampling()


def _text_or_empty(plugin_data: Mapping[str, Any], key: str) -> str:
    value = plugin_data.get(key)
    return value if isinstance(value, str) else ""
