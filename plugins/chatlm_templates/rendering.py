"""Render a template with values as system prompt and user message."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePath

from chatlm import RenderedTemplate, TextFacts, UsageError, one_line
from chatlm_templates import expressions
from chatlm_templates.template import (
    FACT,
    IMAGE,
    PROMPT_PARTS,
    PromptExample,
    Template,
    Value,
    Variable,
)


@dataclass(frozen=True)
class FilledTemplate:
    """A template with its variables filled in, part by part."""

    system: str
    parts: tuple[tuple[str, str], ...]
    """Heading and text of each part of the message; the free text has no heading."""

    @property
    def user(self) -> str:
        """The whole message; empty if the template sets only the system prompt."""
        return "\n\n".join(
            f"{heading}:\n{text}" if heading else text for heading, text in self.parts
        )


def render_template(
    template: Template,
    variable_values: Mapping[str, str],
    raw_input: str = "",
    facts: TextFacts = dict,
) -> RenderedTemplate:
    """Fill in a template for one message.

    Args:
        template: a valid template.
        variable_values: values by variable name, as text.
        raw_input: what the user typed or piped in, see `fill_template`.
        facts: returns what plugins know about the text, for variables of type `fact`.

    Raises:
        UsageError: a variable is unknown, or a value is missing or invalid.
    """
    filled = fill_template(
        template, {**_fact_values(template, facts, variable_values), **variable_values}, raw_input
    )
    values = dict(variable_values)
    input_text = values.pop(template.input, raw_input) if template.takes_input else ""
    return RenderedTemplate(
        system=filled.system,
        user=filled.user,
        sampling=template.sampling,
        raw_input=input_text,
        tools=template.tools,
        images=template.images(variable_values),
        plugin_state={"template": template.name, "values": values, "system": filled.system},
    )


def fill_template(
    template: Template, variable_values: Mapping[str, str], raw_input: str = ""
) -> FilledTemplate:
    """Fill in a template, part by part.

    Values cannot break out of their place: a `text` stays on one line, a `multiline` value is
    wrapped in an element named after its variable, and tags are escaped in both.

    Args:
        template: a valid template.
        variable_values: values by variable name, as text.
        raw_input: what the user typed or piped in: the value of the template's input variable, or
            the message if the template sets only the system prompt.

    Raises:
        UsageError: a variable is unknown, a value is missing or invalid, or the template has no
            place for `raw_input`.
    """
    values = dict(variable_values)
    message = ""
    if raw_input and template.input and template.input not in values:
        values[template.input] = raw_input
    elif raw_input and template.has_message:
        raise UsageError(
            f"The template {template.name} takes no further text.",
            hint="Set a variable instead: -v NAME=TEXT",
        )
    else:
        message = raw_input
    substitutions = _substitutions(template, values)
    parts = _fill_parts(template, substitutions) if template.has_message else [("", message)]
    return FilledTemplate(
        expressions.fill_variables(template.system, substitutions),
        tuple((heading, text) for heading, text in parts if text),
    )


def _fact_values(
    template: Template, facts: TextFacts, variable_values: Mapping[str, str]
) -> dict[str, str]:
    """Return the missing values of `fact` variables; facts are computed only if needed."""
    missing = {
        name
        for name, variable in template.variables.items()
        if variable.type == FACT and name not in variable_values
    }
    known = facts() if missing else {}
    return {name: one_line(known[name], 200) for name in missing & set(known)}


def escape_tags(text: str) -> str:
    """Escape `<` where it could start a tag as `&lt;`, and `&` in entities as `&amp;`."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    return re.sub(r"<(?=[^\W\d]|[/!?])", "&lt;", text)


def part_heading(part: str) -> str:
    """Return the heading of one of `PROMPT_PARTS`, without its colon."""
    return part.replace("_", " ").capitalize()


def _substitutions(template: Template, values: Mapping[str, str]) -> dict[str, Value]:
    for name in values:
        if name not in template.variables:
            raise UsageError(
                f"The template {template.name} has no variable {name!r}.",
                hint=_suggest_variable(name, template),
            )
    return {
        name: _substitution(template, variable, values.get(name))
        for name, variable in template.variables.items()
    }


def _suggest_variable(name: str, template: Template) -> str:
    if near := get_close_matches(name, template.variables, 1):
        return f"Did you mean {near[0]}?"
    return f"It has: {', '.join(template.variables) or 'none'}."


def _substitution(template: Template, variable: Variable, text: str | None) -> Value:
    value = variable.default if text is None else variable.parse(text)
    if variable.required and (value is None or value == ""):
        description = f": {variable.description}" if variable.description else ""
        raise UsageError(
            f"The template {template.name} needs {variable.name}{description}.",
            hint=f"Set it: -v {variable.name}=TEXT"
            + (", or pipe it in." if variable.name == template.input else ""),
        )
    if value is None:
        return ""
    if variable.type == "multiline" and value:
        return f"<{variable.name}>\n{escape_tags(str(value))}\n</{variable.name}>"
    if variable.type == IMAGE:
        value = PurePath(str(value).rstrip("/")).name
    return escape_tags(value) if isinstance(value, str) else value


def _fill_parts(
    template: Template, substitutions: Mapping[str, Value]
) -> Iterator[tuple[str, str]]:
    for part in PROMPT_PARTS:
        if part == "examples":
            text = format_examples(template.examples)
        else:
            text = expressions.fill_variables(getattr(template, part), substitutions)
        yield part_heading(part), text
    yield "", expressions.fill_variables(template.user, substitutions)


def format_examples(examples: tuple[PromptExample, ...]) -> str:
    """Format the examples as XML elements; empty without examples."""
    if not examples:
        return ""
    return "\n".join(["<examples>", *map(_format_example, examples), "</examples>"])


def _format_example(example: PromptExample) -> str:
    parts = [("input", example.input), ("output", example.output)]
    if example.explanation:
        parts.append(("explanation", example.explanation))
    inside = "\n".join(f"<{name}>{escape_tags(text)}</{name}>" for name, text in parts)
    start_tag = "<example>" if example.positive else '<example kind="negative">'
    return f"{start_tag}\n{inside}\n</example>"
