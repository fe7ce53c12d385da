"""The template that a chat goes by, as it is kept with the chat; it knows no screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatlm import ChatlmError, Conversation, Facts, Sampling, UsageError
from chatlm_templates import PLUGIN
from chatlm_templates.library import named
from chatlm_templates.rendering import render


@dataclass(frozen=True)
class Chosen:
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


def chosen(kept: Mapping[str, Any]) -> Chosen | None:
    """Read what is kept with a chat; None where it goes by no template.

    A chat may come from a file that somebody else wrote: what is no text is passed over.
    """
    name, values = kept.get("template"), kept.get("values")
    if not isinstance(name, str):
        return None
    given = values.items() if isinstance(values, Mapping) else ()
    return Chosen(
        template=name,
        values={key: text for key, text in given if isinstance(text, str)},
        system=_text(kept, "system"),
        before=_text(kept, "before"),
    )


def of(conversation: Conversation) -> Chosen | None:
    """The template that a chat goes by."""
    return chosen(conversation.kept.get(PLUGIN, {}))


def message(conversation: Conversation, typed: str, facts: Facts) -> str | UsageError | None:
    """What the chat's template makes of what was typed; None where it leaves that as it is.

    A template that is gone or cannot be used, and words that do not fit it, are refused: sent as
    they are they would be another question.
    """
    choice = of(conversation)
    if choice is None or typed == conversation.kept[PLUGIN].get("as_is"):
        return None
    try:
        template = named(choice.template)
        if not template.takes_words:
            return None
        if made := render(template, choice.values, typed, facts).user:
            return made
        raise UsageError(f"The template {template.name} makes no message of these words.")
    except ChatlmError as error:
        return UsageError(
            f"Nothing was sent. {error.message}",
            hint="In the chat, /template fills in or changes its template, /template off ends it.",
        )


def sampling(conversation: Conversation) -> Sampling:
    """What the chat's template sets; nothing where it cannot be read, which the message tells."""
    choice = of(conversation)
    try:
        return named(choice.template).sampling if choice else Sampling()
    except ChatlmError:
        return Sampling()


def _text(kept: Mapping[str, Any], name: str) -> str:
    value = kept.get(name)
    return value if isinstance(value, str) else ""
