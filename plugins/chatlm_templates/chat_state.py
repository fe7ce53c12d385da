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

    template: str
    """Its name."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Those of its variables that were given, but for the input."""
    system: str = ""
    """The system prompt that it gave the chat; empty where it has none."""
    before: str = ""
    """The chat's system prompt before that."""

    @property
    def kept(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "template": self.template,
            "values": dict(self.values),
            "system": self.system,
            "before": self.before,
        }


def selected_template(kept: Mapping[str, Any]) -> SelectedTemplate | None:
    """Read what is kept with a chat; None where it goes by no template.

    A chat may come from a file that somebody else wrote: what is no text is passed over.
    """
    name, values = kept.get("template"), kept.get("values")
    if not isinstance(name, str):
        return None
    given = values.items() if isinstance(values, Mapping) else ()
    return SelectedTemplate(
        template=name,
        values={key: text for key, text in given if isinstance(text, str)},
        system=_text_or_empty(kept, "system"),
        before=_text_or_empty(kept, "before"),
    )


def selected_template_in_chat(conversation: Conversation) -> SelectedTemplate | None:
    """The template that a chat goes by."""
    return selected_template(conversation.kept.get(PLUGIN, {}))


def write_message(
    conversation: Conversation, typed: str, facts: TextFacts
) -> str | UsageError | None:
    """What the chat's template makes of what was typed; None where it leaves that as it is.

    A template that is gone or cannot be used, and words that do not fit it, are refused: sent as
    they are they would be another question.
    """
    choice = selected_template_in_chat(conversation)
    if choice is None or typed == conversation.kept[PLUGIN].get("as_is"):
        return None
    try:
        template = load_template(choice.template)
        if not template.takes_words:
            return None
        if made := render_template(template, choice.values, typed, facts).user:
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
        return load_template(choice.template).sampling if choice else Sampling()
    except ChatlmError:
        return Sampling()


def _text_or_empty(kept: Mapping[str, Any], name: str) -> str:
    value = kept.get(name)
    return value if isinstance(value, str) else ""
