"""What a template is and what its variables accept; it knows no file format and renders nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chatlm import Sampling, UsageError

PROMPT_PARTS = (
    "situation",
    "role",
    "task",
    "output_format",
    "constraints",
    "quality_criteria",
    "examples",
    "call_to_action",
)
"""The eight parts of a good prompt (5.7.1), in the order in which the model reads them."""

Value = str | int | float | bool

FACT = "fact"
"""The type of a variable that a plugin knows of the words that were typed; nobody is asked."""


@dataclass(frozen=True)
class PromptExample:
    """What the model is shown of the task: an input, and an answer to it."""

    input: str
    output: str
    explanation: str = ""
    positive: bool = True
    """False for an answer that is wrong; `explanation` then says why."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "input": self.input,
            "output": self.output,
            "explanation": self.explanation,
            "positive": self.positive,
        }


@dataclass(frozen=True)
class Variable:
    """A gap in a template, which a value fills."""

    name: str
    type: str = "text"
    """One of `TYPES`."""
    description: str = ""
    default: Value | None = None
    """Holds where no value is given; None leaves the gap empty."""
    choices: tuple[str, ...] = ()
    required: bool = True

    def parse(self, text: str) -> Value:
        """The value that a text means.

        Raises:
            UsageError: it is no such value; the message says what is wanted.
        """
        wanted, read = VARIABLE_TYPES[self.type]
        value = self._parse_choice(text) if self.type == "choice" else read(text)
        if value is None:
            wanted = wanted or f"one of {', '.join(self.choices)}"
            raise UsageError(
                f"{self.name} must be {wanted}.",
                hint=self.description and f"{self.name}: {self.description}",
            )
        return value

    def _parse_choice(self, text: str) -> Value | None:
        return text if text in self.choices else None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "name": self.name,
            "type": self.type,
            "description": self.description,
            "default": self.default,
            "choices": list(self.choices),
            "required": self.required,
        }


def _parse_line(text: str) -> Value | None:
    lines = text.strip().splitlines()
    return "".join(lines) if len(lines) < 2 else None


def _parse_integer(text: str) -> Value | None:
    return int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text) else None


def _parse_number(text: str) -> Value | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _parse_boolean(text: str) -> Value | None:
    return {"true": True, "yes": True, "false": False, "no": False}.get(text.strip().lower())


VARIABLE_TYPES: dict[str, tuple[str, Callable[[str], Value | None]]] = {
    "text": ("a text on one line", _parse_line),
    "multiline": ("a text", lambda text: text),
    "integer": ("a whole number", _parse_integer),
    "number": ("a number", _parse_number),
    "boolean": ("true or false", _parse_boolean),
    "choice": ("", lambda text: text),
    FACT: ("a text on one line", _parse_line),
}
"""Name -> what is wanted, and how a text is read; None for a text that is no such value."""


@dataclass(frozen=True)
class Template:
    """A named prompt; every text but those of the examples may have gaps, `{{ name }}`."""

    name: str
    description: str = ""
    system: str = ""
    """The system prompt."""
    situation: str = ""
    role: str = ""
    task: str = ""
    output_format: str = ""
    constraints: str = ""
    quality_criteria: str = ""
    examples: tuple[PromptExample, ...] = ()
    call_to_action: str = ""
    user: str = ""
    """Free text of the user's message; it stands below the eight parts."""
    variables: Mapping[str, Variable] = field(default_factory=dict)
    input: str = ""
    """The variable that takes what the person types or pipes in."""
    sampling: Sampling = field(default_factory=Sampling)
    model: str = ""
    """A hint: the model it was written for."""
    adapter: str = ""
    """A hint: the adapter it was written for."""
    index: str = ""
    """A hint: the index whose passages help it."""

    @property
    def has_message(self) -> bool:
        """Whether it writes the user's message, and not only the system prompt."""
        return bool(self.user) or any(getattr(self, part) for part in PROMPT_PARTS)

    @property
    def takes_input(self) -> bool:
        """Whether it makes the message of what the person types."""
        return self.has_message and bool(self.input)

    @property
    def form_variables(self) -> list[Variable]:
        """The variables that a person fills."""
        return [each for each in self.variables.values() if each.type != FACT]

    @property
    def needs_form(self) -> bool:
        """Whether a person has something to fill in before the first message."""
        return any(not self.takes_input or each.name != self.input for each in self.form_variables)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "name": self.name,
            "description": self.description,
            "system": self.system,
            "situation": self.situation,
            "role": self.role,
            "task": self.task,
            "output_format": self.output_format,
            "constraints": self.constraints,
            "quality_criteria": self.quality_criteria,
            "examples": [example.to_dict() for example in self.examples],
            "call_to_action": self.call_to_action,
            "user": self.user,
            "variables": [variable.to_dict() for variable in self.variables.values()],
            "input": self.input,
            "sampling": self.sampling.to_dict(),
            "model": self.model,
            "adapter": self.adapter,
            "index": self.index,
        }
