"""A template and values to what the model will read; it knows no file and no command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from chatlm import Rendered, UsageError
from chatlm_templates import language
from chatlm_templates.template import PARTS, Example, Template, Value, Variable


def render(template: Template, given: Mapping[str, str], typed: str = "") -> Rendered:
    """Fill the template's gaps.

    A value stays in its place: a text keeps to its line, a multi-line one stands in an element
    named after its variable, and in neither can a tag begin.

    Args:
        template: one that was read without a fault.
        given: values by the name of their variable, as text.
        typed: what the person typed or piped in: the value of the variable that the template
            names as its input; of a template that writes only the system prompt, the message.

    Raises:
        UsageError: a name is unknown, a value is missing or wrong, or `typed` has no place.
    """
    values = dict(given)
    message = ""
    if typed and template.input and template.input not in values:
        values[template.input] = typed
    elif typed and template.makes_message:
        raise UsageError(
            f"The template {template.name} has no place for further text.",
            hint="Give it to a variable: -v NAME=TEXT",
        )
    else:
        message = typed
    places = _places(template, values)
    if template.makes_message:
        message = _message(template, places)
    return Rendered(
        system=language.fill(template.system, places), user=message, sampling=template.sampling
    )


def as_data(text: str) -> str:
    """The text with the beginning of anything that a reader might take for a tag written as
    `&lt;`; what already looks so gets an `&amp;`, so that nothing is lost."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    return re.sub(r"<(?=[^\W\d]|[/!?])", "&lt;", text)


def _places(template: Template, values: Mapping[str, str]) -> dict[str, Value]:
    for name in values:
        if name not in template.variables:
            raise UsageError(
                f"The template {template.name} has no variable {name!r}.",
                hint=_nearest(name, template),
            )
    return {
        name: _place(template, variable, values.get(name))
        for name, variable in template.variables.items()
    }


def _nearest(name: str, template: Template) -> str:
    if near := get_close_matches(name, template.variables, 1):
        return f"Did you mean {near[0]}?"
    return f"It has: {', '.join(template.variables) or 'none'}."


def _place(template: Template, variable: Variable, text: str | None) -> Value:
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
        return f"<{variable.name}>\n{as_data(str(value))}\n</{variable.name}>"
    return as_data(value) if isinstance(value, str) else value


def _message(template: Template, places: Mapping[str, Value]) -> str:
    blocks = []
    for part in PARTS:
        text = (
            _examples(template.examples)
            if part == "examples"
            else language.fill(getattr(template, part), places)
        )
        if text:
            blocks.append(f"{part.replace('_', ' ').capitalize()}:\n{text}")
    blocks.append(language.fill(template.user, places))
    return "\n\n".join(block for block in blocks if block)


def _examples(examples: tuple[Example, ...]) -> str:
    if not examples:
        return ""
    return "\n".join(["<examples>", *map(_example, examples), "</examples>"])


def _example(example: Example) -> str:
    parts = [("input", example.input), ("output", example.output)]
    if example.explanation:
        parts.append(("explanation", example.explanation))
    inside = "\n".join(f"<{name}>{as_data(text)}</{name}>" for name, text in parts)
    head = "<example>" if example.positive else '<example kind="negative">'
    return f"{head}\n{inside}\n</example>"
