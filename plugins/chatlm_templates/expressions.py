"""The language of a template's texts: a small part of Jinja2, so that no text can run long or far.

There are gaps `{{ name }}`, conditions `{% if … %}` and a few filters. Without loops, calls,
arithmetic and attributes the work is bounded by the length of text and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

FILTERS = frozenset({"capitalize", "lower", "title", "trim", "upper"})


_ALLOWED_NODES = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Const,
    nodes.List,
    nodes.Tuple,
    nodes.If,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Concat,
    nodes.Filter,
)


_NODE_NAMES = {
    nodes.For: "a loop",
    nodes.Call: "a call",
    nodes.Getattr: "an attribute",
    nodes.Getitem: "an index",
    nodes.Include: "an include",
    nodes.Import: "an import",
    nodes.Extends: "an inheritance",
    nodes.Macro: "a macro",
    nodes.Assign: "an assignment",
    nodes.BinExpr: "arithmetic",
}


class ExpressionError(Exception):
    """A text is not written in the language.

    Args:
        line: 1 for the text's first line.
        problem: what is wrong.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem


def find_variables(text: str) -> dict[str, int]:
    """The names of the text's gaps and conditions, and the line on which each stands first.

    Raises:
        LanguageError: the text is not written in the language.
    """
    found: dict[str, int] = {}
    for node in _walk(_parse(text)):
        if not isinstance(node, _ALLOWED_NODES):
            named = [name for kind, name in _NODE_NAMES.items() if isinstance(node, kind)]
            what = named[0] if named else type(node).__name__
            raise ExpressionError(node.lineno, f"{what} is not allowed in a template")
        if isinstance(node, nodes.Filter) and (node.name not in FILTERS or node.args):
            raise ExpressionError(
                node.lineno, f"there is no filter {node.name}; known: {', '.join(sorted(FILTERS))}"
            )
        if isinstance(node, nodes.Name):
            found.setdefault(node.name, node.lineno)
    return found


def fill_variables(text: str, values: Mapping[str, Any]) -> str:
    """The text with its gaps filled; a value is put in as it is and never read as a template.

    Args:
        text: one that `names_in` accepts.
        values: by name.

    Raises:
        LanguageError: a name has no value.
    """
    try:
        return _environment().from_string(text).render(values).strip()
    except TemplateError as error:
        raise ExpressionError(1, str(error)) from error


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, cache_size=0
    )


def _parse(text: str) -> nodes.Template:
    try:
        return _environment().parse(text)
    except TemplateSyntaxError as error:
        raise ExpressionError(error.lineno, (error.message or "").rstrip(".")) from error
    except RecursionError as error:
        raise ExpressionError(1, "it is nested too deeply") from error


def _walk(node: nodes.Node) -> list[nodes.Node]:
    return [node, *node.find_all(nodes.Node)]
