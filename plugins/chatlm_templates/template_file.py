"""Read and check template files, with line numbers in errors.

YAML nodes are converted one by one to the expected type, so that nothing is guessed (`no` remains
text where text is expected) and aliases cannot expand without bound.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from chatlm import ChatlmError, Sampling, UsageError
from chatlm_templates import expressions
from chatlm_templates.template import (
    FACT,
    PROMPT_PARTS,
    VARIABLE_TYPES,
    PromptExample,
    Template,
    Value,
    Variable,
)

MAX_BYTES = 100_000
"""Size limit of a template file."""

_TEXT_KEYS = ("system", *(part for part in PROMPT_PARTS if part != "examples"), "user")

_SCALAR_KEYS = ("description", "model", "adapter", "index", "input")

_KEYS = (*_SCALAR_KEYS, "sampling", "tools", "variables", *_TEXT_KEYS, "examples")

NAME_RULE = "a name has lowercase letters, digits and single hyphens"
"""Describes what `is_valid_name` accepts."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_TOOL = re.compile(r"[A-Za-z0-9_-]{1,64}")

_VARIABLE = re.compile(r"[a-z][a-z0-9_]*")


_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class TemplateFileError(ChatlmError):
    """A template file is invalid.

    Args:
        path: the file.
        line: line number from 1; 0 for the file as a whole.
        problem: what is wrong.
    """

    exit_code = 2

    def __init__(self, path: Path, line: int, problem: str) -> None:
        location = f"{path}, line {line}" if line else f"{path}"
        super().__init__(f"{location}: {problem.rstrip('.')}.")
        self.path = path
        self.line = line
        self.problem = problem


def read_template(path: Path) -> Template:
    """Read a template, which is named after its file.

    Raises:
        TemplateFileError: the file cannot be read or is invalid.
    """
    try:
        if path.stat().st_size > MAX_BYTES or not path.is_file():
            raise TemplateFileError(path, 0, f"it is not a file of at most {MAX_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise TemplateFileError(path, 0, f"it cannot be read: {error.strerror}") from error
    if not is_valid_name(path.stem):
        raise TemplateFileError(path, 0, f"invalid name {path.stem!r}; {NAME_RULE}")
    try:
        return _parse_template(path.stem, parse_yaml(content))
    except DocumentError as error:
        raise TemplateFileError(path, error.line, error.problem) from error


def is_valid_name(name: str) -> bool:
    """Return whether a template can have this name."""
    return bool(_NAME.fullmatch(name))


def _parse_template(name: str, root: Node | None) -> Template:
    if root is None:
        raise DocumentError(1, "it is empty")
    nodes = mapping_values(root, _KEYS)
    texts = {key: _parse_text(nodes[key]) for key in _TEXT_KEYS if key in nodes}
    hints = {key: scalar_text(nodes[key]) for key in _SCALAR_KEYS if key in nodes}
    variables = _parse_variables(nodes["variables"]) if "variables" in nodes else {}
    if not any(texts.values()) and "examples" not in nodes:
        raise DocumentError(
            line_number(root), f"it has no text; add one of {', '.join(_TEXT_KEYS)}"
        )
    _check_variables(nodes, texts, variables)
    if "input" in nodes and (
        hints["input"] not in variables
        or variables[hints["input"]].type not in ("text", "multiline")
    ):
        raise DocumentError(
            line_number(nodes["input"]), "input must name a text or multiline variable"
        )
    return Template(
        name=name,
        variables=variables,
        examples=tuple(map(_parse_example, list_items(nodes["examples"])))
        if "examples" in nodes
        else (),
        tools=_parse_tools(nodes["tools"]) if "tools" in nodes else (),
        sampling=_parse_sampling(nodes["sampling"]) if "sampling" in nodes else Sampling(),
        **texts,
        **hints,
    )


def _parse_text(node: Node) -> str:
    """Return a text; a list becomes one line per item, each with a hyphen."""
    if isinstance(node, SequenceNode):
        return "\n".join(f"- {scalar_text(item).strip()}" for item in list_items(node))
    return scalar_text(node).strip()


def _check_variables(
    nodes: Mapping[str, Node], texts: Mapping[str, str], variables: Mapping[str, Variable]
) -> None:
    used: set[str] = set()
    for key, text in texts.items():
        first_line = text_line_number(nodes[key])
        try:
            names = expressions.find_variables(text)
        except expressions.ExpressionError as error:
            raise DocumentError(first_line + error.line - 1, f"{key}: {error.problem}") from error
        for name, line in names.items():
            if name not in variables:
                raise DocumentError(
                    first_line + line - 1, f"{key}: {name} is not defined under variables"
                )
        used |= names.keys()
    for name in variables:
        if name not in used:
            raise DocumentError(line_number(nodes["variables"]), f"the variable {name} is not used")


def _parse_variables(node: Node) -> dict[str, Variable]:
    return {name: _parse_variable(name, value) for name, value in mapping_values(node).items()}


def _parse_variable(name: str, node: Node) -> Variable:
    if not _VARIABLE.fullmatch(name):
        raise DocumentError(
            line_number(node),
            f"invalid variable name {name!r}; use lowercase letters, digits and underscores",
        )
    nodes = mapping_values(node, ("type", "description", "default", "choices", "required"))
    kind = scalar_text(nodes["type"]) if "type" in nodes else "text"
    if kind not in VARIABLE_TYPES:
        raise DocumentError(
            line_number(nodes["type"]), f"{name}: the types are {', '.join(VARIABLE_TYPES)}"
        )
    choices = tuple(map(scalar_text, list_items(nodes["choices"]))) if "choices" in nodes else ()
    if (kind == "choice") != bool(choices):
        raise DocumentError(
            line_number(node), f"{name}: choices belong to the type choice, which needs them"
        )
    required = boolean_value(nodes["required"]) if "required" in nodes else "default" not in nodes
    if kind == FACT and "default" not in nodes:
        raise DocumentError(
            line_number(node), f"{name}: a fact needs a default, for when no plugin knows it"
        )
    if required and "default" in nodes:
        raise DocumentError(
            line_number(nodes["default"]), f"{name} has a default, so it cannot be required"
        )
    variable = Variable(
        name=name,
        type=kind,
        description=scalar_text(nodes["description"]) if "description" in nodes else "",
        choices=choices,
        required=required,
    )
    if "default" not in nodes:
        return variable
    return _with_default(variable, nodes["default"])


def _with_default(variable: Variable, node: Node) -> Variable:
    try:
        default: Value = variable.parse(scalar_text(node))
    except UsageError as error:
        raise DocumentError(line_number(node), f"the default of {error.message}") from error
    return replace(variable, default=default)


def _parse_example(node: Node) -> PromptExample:
    nodes = mapping_values(node, ("input", "output", "explanation", "kind"))
    for key in ("input", "output"):
        if key not in nodes:
            raise DocumentError(line_number(node), f"this example has no {key}")
    kind = scalar_text(nodes["kind"]) if "kind" in nodes else "positive"
    if kind not in ("positive", "negative"):
        raise DocumentError(
            line_number(nodes["kind"]), "the kind of an example is positive or negative"
        )
    if kind == "negative" and "explanation" not in nodes:
        raise DocumentError(
            line_number(node), "a negative example needs an explanation of what is wrong"
        )
    return PromptExample(
        input=scalar_text(nodes["input"]).strip(),
        output=scalar_text(nodes["output"]).strip(),
        explanation=scalar_text(nodes["explanation"]).strip() if "explanation" in nodes else "",
        positive=kind == "positive",
    )


def _parse_tools(node: Node) -> tuple[str, ...]:
    """Return the names of tools: a list, or one name."""
    items = list_items(node) if isinstance(node, SequenceNode) else [node]
    for item in items:
        if not _TOOL.fullmatch(scalar_text(item)):
            raise DocumentError(
                line_number(item), "tools must be names of tools or groups, such as calculator"
            )
    return tuple(scalar_text(item) for item in items)


def _parse_sampling(node: Node) -> Sampling:
    sampling = Sampling()
    for name, value in mapping_values(node).items():
        try:
            plain = {name: _plain_sampling_value(name, value)}
            sampling = Sampling.from_dict(plain).with_fallback(sampling)
        except UsageError as error:
            raise DocumentError(line_number(value), error.message) from error
    return sampling


def _plain_sampling_value(name: str, node: Node) -> Any:
    """Convert a setting: one value, a list of texts, or a logit bias as pairs or by token."""
    if name == "logit_bias" and isinstance(node, MappingNode):
        return [[scalar_value(token), scalar_value(bias)] for token, bias in node.value]
    if name == "schema":
        return _plain_value(node)
    if not isinstance(node, SequenceNode):
        return scalar_value(node)
    if name == "logit_bias":
        return [[scalar_value(each) for each in list_items(pair)] for pair in list_items(node)]
    return [scalar_text(item) for item in list_items(node)]


def _plain_value(node: Node) -> Any:
    """Convert a node with all that is in it."""
    if isinstance(node, MappingNode):
        return {name: _plain_value(value) for name, value in mapping_values(node).items()}
    if isinstance(node, SequenceNode):
        return [_plain_value(item) for item in list_items(node)]
    return scalar_value(node)


class DocumentError(Exception):
    """A YAML document is invalid.

    Args:
        line: line number from 1.
        problem: what is wrong.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem


def parse_yaml(content: bytes) -> Node | None:
    """Parse a document and return its root node; None for an empty one.

    Raises:
        DocumentError: it is not UTF-8 or not YAML.
    """
    try:
        return yaml.compose(content.decode("utf-8-sig"), yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise DocumentError(content.count(b"\n", 0, error.start) + 1, "it is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise DocumentError(mark.line + 1 if mark else 1, f"it is not YAML: {reason}") from error
    except yaml.YAMLError as error:
        raise DocumentError(1, f"it is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise DocumentError(1, "it is nested too deeply") from error


def line_number(node: Node) -> int:
    """Return the line number at which a node starts."""
    return int(node.start_mark.line) + 1


def text_line_number(node: Node) -> int:
    """Return the line number at which a node's text starts: for a block, below its `|`."""
    return line_number(node) + (isinstance(node, ScalarNode) and node.style in ("|", ">"))


def mapping_values(node: Node, allowed_keys: Collection[str] = ()) -> dict[str, Node]:
    """Return the value nodes of a mapping by key.

    Args:
        node: the mapping.
        allowed_keys: valid keys; empty for any.

    Raises:
        DocumentError: it is not a mapping, or a key is duplicated or unknown.
    """
    if not isinstance(node, MappingNode):
        raise DocumentError(line_number(node), "expected lines of the form `key: value`")
    values: dict[str, Node] = {}
    for key, value in node.value:
        name = scalar_text(key)
        if name in values:
            raise DocumentError(line_number(key), f"duplicate key {name}")
        if allowed_keys and name not in allowed_keys:
            near = get_close_matches(name, allowed_keys, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(allowed_keys)}"
            raise DocumentError(line_number(key), f"unknown key {name!r}; {hint}")
        values[name] = value
    return values


def list_items(node: Node) -> list[Node]:
    """Return the nodes of a list.

    Raises:
        DocumentError: it is not a list.
    """
    if not isinstance(node, SequenceNode):
        raise DocumentError(line_number(node), "expected a list, each item after a `-`")
    return list(node.value)


def scalar_text(node: Node) -> str:
    """Return the text of a scalar as written.

    Raises:
        DocumentError: it is a list or a mapping.
    """
    if not isinstance(node, ScalarNode):
        raise DocumentError(line_number(node), "expected a single value")
    return str(node.value)


def boolean_value(node: Node) -> bool:
    """Return a boolean.

    Raises:
        DocumentError: it is something else.
    """
    value = scalar_value(node)
    if not isinstance(value, bool):
        raise DocumentError(line_number(node), "expected true or false")
    return value


def scalar_value(node: Node) -> Any:
    """Convert a scalar as YAML does: to a string, number, boolean or None.

    Raises:
        DocumentError: it is a list or a mapping.
    """
    if ":" in scalar_text(node) and node.tag in _NUMBER_TAGS:
        raise DocumentError(
            line_number(node),
            "YAML reads this as a number in base 60; write it without colons, or in quotes",
        )
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise DocumentError(line_number(node), "invalid YAML value") from error
    finally:
        loader.dispose()
