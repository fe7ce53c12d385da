"""The template language: a safe subset of Jinja2 with variables, conditions and a few filters.

Without loops, calls, arithmetic and attributes, rendering time is bounded by the length of the
text and its values.
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
"""Names of forbidden nodes, for error messages."""


class ExpressionError(Exception):
    """A text is not valid in the template language.

    Args:
        line: line of the text, from 1.
        problem: what is wrong.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem


def find_variables(text: str) -> dict[str, int]:
    """Return the variables of a text, each with the line of its first use.

    Raises:
        ExpressionError: the text is invalid.
    """
    variables: dict[str, int] = {}
    for node in _walk(_parse(text)):
        if not isinstance(node, _ALLOWED_NODES):
            names = [name for kind, name in _NODE_NAMES.items() if isinstance(node, kind)]
            construct = names[0] if names else type(node).__name__
            raise ExpressionError(node.lineno, f"{construct} is not allowed in a template")
        if isinstance(node, nodes.Filter) and (node.name not in FILTERS or node.args):
            raise ExpressionError(
                node.lineno, f"unknown filter {node.name}; known: {', '.join(sorted(FILTERS))}"
            )
        if isinstance(node, nodes.Name):
            variables.setdefault(node.name, node.lineno)
    return variables


def fill_variables(text: str, values: Mapping[str, Any]) -> str:
    """Return the text with its variables filled in; values are never read as templates.

    Args:
        text: a text that `find_variables` accepts.
        values: values by variable name.

    Raises:
        ExpressionError: a variable has no value.
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
