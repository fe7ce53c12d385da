"""Templates, their variables, and the types of values that variables accept."""

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
"""The eight parts of a good prompt, in the order in which they are written ("The Hundred-Page
Language Models Book", section 5.7.1)."""

Value = str | int | float | bool

IMAGE = "image"
"""The type of a variable for an image: its file is attached, and its name is in the text."""

FACT = "fact"
"""The type of a variable that plugins fill from the typed text, such as its mood."""


@dataclass(frozen=True)
class PromptExample:
    """An example of the task for the model: an input and its output."""

    input: str
    output: str
    explanation: str = ""
    positive: bool = True
    """False for a wrong output; `explanation` then says why it is wrong."""

    def to_dict(self) -> dict[str, Any]:
        """Return the example as plain values, ready for JSON."""
        return {
            "input": self.input,
            "output": self.output,
            "explanation": self.explanation,
            "positive": self.positive,
        }


@dataclass(frozen=True)
class Variable:
    """A variable of a template."""

    name: str
    type: str = "text"
    """One of `VARIABLE_TYPES`."""
    description: str = ""
    default: Value | None = None
    """Used if no value is given; None leaves the variable empty."""
    choices: tuple[str, ...] = ()
    required: bool = True

    def parse(self, text: str) -> Value:
        """Parse a text as a value of the variable.

        Raises:
            UsageError: it is not a valid value; the message says what is expected.
        """
        expected, parse = VARIABLE_TYPES[self.type]
        value = self._parse_choice(text) if self.type == "choice" else parse(text)
        if value is None:
            expected = expected or f"one of {', '.join(self.choices)}"
            raise UsageError(
                f"{self.name} must be {expected}.",
                hint=self.description and f"{self.name}: {self.description}",
            )
        return value

    def _parse_choice(self, text: str) -> Value | None:
        return text if text in self.choices else None

    def to_dict(self) -> dict[str, Any]:
        """Return the variable as plain values, ready for JSON."""
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
    "text": ("text on one line", _parse_line),
    "multiline": ("text", lambda text: text),
    "integer": ("a whole number", _parse_integer),
    "number": ("a number", _parse_number),
    "boolean": ("true or false", _parse_boolean),
    "choice": ("", lambda text: text),
    IMAGE: ("the path or the address of an image", _parse_line),
    FACT: ("text on one line", _parse_line),
}
"""Types by name: what is expected, and a parser that returns None for an invalid text."""


@dataclass(frozen=True)
class Template:
    """A named prompt; all texts except the examples may use variables, `{{ name }}`."""

    name: str
    description: str = ""
    system: str = ""
    """System prompt."""
    situation: str = ""
    role: str = ""
    task: str = ""
    output_format: str = ""
    constraints: str = ""
    quality_criteria: str = ""
    examples: tuple[PromptExample, ...] = ()
    call_to_action: str = ""
    user: str = ""
    """Free text of the user message, below the eight parts."""
    variables: Mapping[str, Variable] = field(default_factory=dict)
    input: str = ""
    """The variable that takes what the user types or pipes in."""
    sampling: Sampling = field(default_factory=Sampling)
    tools: tuple[str, ...] = ()
    """Tools and groups of tools that a chat with it offers."""
    model: str = ""
    """The model it was written for, as a hint."""
    adapter: str = ""
    """The adapter it was written for, as a hint."""
    index: str = ""
    """The index it was written for, as a hint."""

    @property
    def has_message(self) -> bool:
        """Whether it writes the user message, not only the system prompt."""
        return bool(self.user) or any(getattr(self, part) for part in PROMPT_PARTS)

    @property
    def takes_input(self) -> bool:
        """Whether it writes the message around what the user types."""
        return self.has_message and bool(self.input)

    @property
    def form_variables(self) -> list[Variable]:
        """The variables that the user fills in."""
        return [variable for variable in self.variables.values() if variable.type != FACT]

    def images(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the paths and addresses of the images that values by variable name give it."""
        return tuple(
            path.strip()
            for variable in self.variables.values()
            if variable.type == IMAGE
            and (path := values.get(variable.name, str(variable.default or ""))).strip()
        )

    @property
    def needs_form(self) -> bool:
        """Whether the user has something to fill in before the first message."""
        return any(
            not self.takes_input or variable.name != self.input for variable in self.form_variables
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the template as plain values, ready for JSON."""
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
            "tools": list(self.tools),
        }
