"""A template and values to what the model will read; it knows no file and no command."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from chatlm import RenderedTemplate, TextFacts, UsageError, one_line
from chatlm_templates import expressions
from chatlm_templates.template import FACT, PROMPT_PARTS, PromptExample, Template, Value, Variable


@dataclass(frozen=True)
class FilledTemplate:
    """A template with its gaps filled, part by part."""

    system: str
    parts: tuple[tuple[str, str], ...]
    """Heading and text of each part of the message, in order; free text has no heading."""

    @property
    def user(self) -> str:
        """The whole message; empty where the person still has to write it."""
        return "\n\n".join(f"{head}:\n{text}" if head else text for head, text in self.parts)


def render_template(
    template: Template,
    variable_values: Mapping[str, str],
    raw_input: str = "",
    facts: TextFacts = dict,
) -> RenderedTemplate:
    """Fill the template's gaps, as one message.

    Args:
        template, given, typed: as those of `write`.
        facts: gives what fills the variables that are facts, where `variable_values` does not.

    Raises:
        UsageError: as `write`.
    """
    written = fill_template(
        template, {**_fact_values(template, facts, variable_values), **variable_values}, raw_input
    )
    values = dict(variable_values)
    spoken = values.pop(template.input, raw_input) if template.takes_input else ""
    return RenderedTemplate(
        system=written.system,
        user=written.user,
        sampling=template.sampling,
        raw_input=spoken,
        plugin_state={"template": template.name, "values": values, "system": written.system},
    )


def fill_template(
    template: Template, variable_values: Mapping[str, str], raw_input: str = ""
) -> FilledTemplate:
    """Fill the template's gaps.

    A value stays in its place: a text keeps to its line, a multi-line one stands in an element
    named after its variable, and in neither can a tag begin.

    Args:
        template: one that was read without a fault.
        variable_values: values by the name of their variable, as text.
        raw_input: what the person typed or piped in: the value of the variable that the template
            names as its input; of a template that writes only the system prompt, the message.

    Raises:
        UsageError: a name is unknown, a value is missing or wrong, or `raw_input` has no place.
    """
    values = dict(variable_values)
    message = ""
    if raw_input and template.input and template.input not in values:
        values[template.input] = raw_input
    elif raw_input and template.has_message:
        raise UsageError(
            f"The template {template.name} has no place for further text.",
            hint="Give it to a variable: -v NAME=TEXT",
        )
    else:
        message = raw_input
    places = _substitutions(template, values)
    parts = _fill_parts(template, places) if template.has_message else [("", message)]
    return FilledTemplate(
        expressions.fill_variables(template.system, places),
        tuple((head, text) for head, text in parts if text),
    )


def _fact_values(
    template: Template, facts: TextFacts, variable_values: Mapping[str, str]
) -> dict[str, str]:
    """What the facts say of the template's variables; they are asked for only if it needs them."""
    open_ = {name for name, each in template.variables.items() if each.type == FACT} - set(
        variable_values
    )
    known = facts() if open_ else {}
    return {name: one_line(known[name], 200) for name in open_ & set(known)}


def escape_tags(text: str) -> str:
    """The text with the beginning of anything that a reader might take for a tag written as
    `&lt;`; what already looks so gets an `&amp;`, so that nothing is lost."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    return re.sub(r"<(?=[^\W\d]|[/!?])", "&lt;", text)


def part_heading(part: str) -> str:
    """What stands above one of `PARTS`, without its colon."""
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
        about = f": {variable.description}" if variable.description else ""
        raise UsageError(
            f"The template {template.name} needs {variable.name}{about}.",
            hint=f"Give it: -v {variable.name}=TEXT"
            + (", or pipe it in." if variable.name == template.input else ""),
        )
    if value is None:
        return ""
    if variable.type == "multiline" and value:
        return f"<{variable.name}>\n{escape_tags(str(value))}\n</{variable.name}>"
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
    """The examples as the model reads them; empty for none."""
    if not examples:
        return ""
    return "\n".join(["<examples>", *map(_format_example, examples), "</examples>"])


def _format_example(example: PromptExample) -> str:
    parts = [("input", example.input), ("output", example.output)]
    if example.explanation:
        parts.append(("explanation", example.explanation))
    inside = "\n".join(f"<{name}>{escape_tags(text)}</{name}>" for name, text in parts)
    head = "<example>" if example.positive else '<example kind="negative">'
    return f"{head}\n{inside}\n</example>"
