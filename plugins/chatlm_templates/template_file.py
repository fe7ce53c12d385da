"""YAML nodes with lines; parse and check a file.

Nodes are read one by one as what is wanted there, so that nothing is guessed (`no` stays a text
where a text is wanted) and no alias can grow.
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
"""The largest file that is read."""


_TEXT_KEYS = ("system", *(part for part in PROMPT_PARTS if part != "examples"), "user")


_SCALAR_KEYS = ("description", "model", "adapter", "index", "input")


_KEYS = (*_SCALAR_KEYS, "sampling", "variables", *_TEXT_KEYS, "examples")


NAME_RULE = "a name has small letters, digits and single hyphens"
"""What `may_be_called` accepts, in words."""


_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


_VARIABLE = re.compile(r"[a-z][a-z0-9_]*")


class TemplateFileError(ChatlmError):
    """A template's file cannot be used.

    Args:
        path: the file.
        line: where; 0 for the file as a whole.
        problem: what is wrong.
    """

    exit_code = 2

    def __init__(self, path: Path, line: int, problem: str) -> None:
        place = f"{path}, line {line}" if line else f"{path}"
        super().__init__(f"{place}: {problem.rstrip('.')}.")
        self.path = path
        self.line = line
        self.problem = problem


def read_template(path: Path) -> Template:
    """The template that a file holds; it is called like the file.

    Raises:
        TemplateFault: the file cannot be read, or something in it is wrong.
    """
    try:
        if path.stat().st_size > MAX_BYTES or not path.is_file():
            raise TemplateFileError(path, 0, f"it is no file of at most {MAX_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise TemplateFileError(path, 0, f"it cannot be read: {error.strerror}") from error
    if not is_valid_name(path.stem):
        raise TemplateFileError(path, 0, f"it cannot be called {path.stem!r}; {NAME_RULE}")
    try:
        return _parse_template(path.stem, parse_yaml(content))
    except DocumentError as wrong:
        raise TemplateFileError(path, wrong.line, wrong.problem) from wrong


def is_valid_name(name: str) -> bool:
    """Whether a template may have this name."""
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
            line_number(root), f"it says nothing; it may have {', '.join(_TEXT_KEYS)}"
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
        sampling=_parse_sampling(nodes["sampling"]) if "sampling" in nodes else Sampling(),
        **texts,
        **hints,
    )


def _parse_text(node: Node) -> str:
    """A text; a list becomes one line an item, behind a hyphen."""
    if isinstance(node, SequenceNode):
        return "\n".join(f"- {scalar_text(item).strip()}" for item in list_items(node))
    return scalar_text(node).strip()


def _check_variables(
    nodes: Mapping[str, Node], texts: Mapping[str, str], variables: Mapping[str, Variable]
) -> None:
    used: set[str] = set()
    for key, text in texts.items():
        first = text_line_number(nodes[key])
        try:
            names = expressions.find_variables(text)
        except expressions.ExpressionError as error:
            raise DocumentError(first + error.line - 1, f"{key}: {error.problem}") from error
        for name, line in names.items():
            if name not in variables:
                raise DocumentError(
                    first + line - 1, f"{key}: {name} is not one of the template's variables"
                )
        used |= names.keys()
    for name in variables:
        if name not in used:
            raise DocumentError(
                line_number(nodes["variables"]), f"the variable {name} stands in no text"
            )


def _parse_variables(node: Node) -> dict[str, Variable]:
    return {name: _parse_variable(name, value) for name, value in mapping_values(node).items()}


def _parse_variable(name: str, node: Node) -> Variable:
    if not _VARIABLE.fullmatch(name):
        raise DocumentError(
            line_number(node), f"{name!r} may have small letters, digits and underscores"
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
            line_number(node), f"{name}: a choice has choices, and nothing else has"
        )
    required = boolean_value(nodes["required"]) if "required" in nodes else "default" not in nodes
    if kind == FACT and "default" not in nodes:
        raise DocumentError(
            line_number(node), f"{name}: a fact has a default, for where no plugin knows it"
        )
    if required and "default" in nodes:
        raise DocumentError(
            line_number(nodes["default"]), f"{name} has a default, so it is not required"
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
        raise DocumentError(line_number(nodes["kind"]), "an example's kind is positive or negative")
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


def _parse_sampling(node: Node) -> Sampling:
    sampling = Sampling()
    for name, value in mapping_values(node).items():
        said = (
            [scalar_text(item) for item in list_items(value)]
            if isinstance(value, SequenceNode)
            else scalar_value(value)
        )
        try:
            sampling = Sampling.from_dict({name: said}).with_fallback(sampling)
        except UsageError as error:
            raise DocumentError(line_number(value), error.message) from error
    return sampling


class DocumentError(Exception):
    """Something in a document that cannot be used.

    Args:
        line: 1 for the first.
        problem: what is wrong.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem


def parse_yaml(content: bytes) -> Node | None:
    """The document's root; None for an empty one.

    Raises:
        Wrong: it is not UTF-8 or not YAML.
    """
    try:
        return yaml.compose(content.decode("utf-8-sig"), yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise DocumentError(content.count(b"\n", 0, error.start) + 1, "it is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise DocumentError(mark.line + 1 if mark else 1, f"it is not YAML: {what}") from error
    except yaml.YAMLError as error:
        raise DocumentError(1, f"it is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise DocumentError(1, "it is nested too deeply") from error


def line_number(node: Node) -> int:
    """Where the node begins."""
    return int(node.start_mark.line) + 1


def text_line_number(node: Node) -> int:
    """Where the text of a node begins, which for a block is the line below its `|`."""
    return line_number(node) + (isinstance(node, ScalarNode) and node.style in ("|", ">"))


def mapping_values(node: Node, allowed_keys: Collection[str] = ()) -> dict[str, Node]:
    """The values of a mapping by their key.

    Args:
        node: the mapping.
        allowed_keys: the keys it may have; empty for any.

    Raises:
        Wrong: it is no mapping, a key comes twice, or is not known.
    """
    if not isinstance(node, MappingNode):
        raise DocumentError(line_number(node), "here belong lines of the form `key: value`")
    found: dict[str, Node] = {}
    for key, value in node.value:
        name = scalar_text(key)
        if name in found:
            raise DocumentError(line_number(key), f"{name} stands here a second time")
        if allowed_keys and name not in allowed_keys:
            near = get_close_matches(name, allowed_keys, 1)
            end = f"did you mean {near[0]}?" if near else f"known: {', '.join(allowed_keys)}"
            raise DocumentError(line_number(key), f"there is no {name!r} here; {end}")
        found[name] = value
    return found


def list_items(node: Node) -> list[Node]:
    """The nodes of a list.

    Raises:
        Wrong: it is no list.
    """
    if not isinstance(node, SequenceNode):
        raise DocumentError(line_number(node), "here belongs a list, each item behind a `-`")
    return list(node.value)


def scalar_text(node: Node) -> str:
    """The text of a single value, as it stands there.

    Raises:
        Wrong: it is a list or a mapping.
    """
    if not isinstance(node, ScalarNode):
        raise DocumentError(line_number(node), "here belongs a single value")
    return str(node.value)


def boolean_value(node: Node) -> bool:
    """A true or false.

    Raises:
        Wrong: it is something else.
    """
    value = scalar_value(node)
    if not isinstance(value, bool):
        raise DocumentError(line_number(node), "here belongs true or false")
    return value


def scalar_value(node: Node) -> Any:
    """The value that YAML takes a single value for: a text, number, bool or None.

    Raises:
        Wrong: it is a list or a mapping.
    """
    scalar_text(node)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise DocumentError(line_number(node), "this is no value that YAML knows") from error
    finally:
        loader.dispose()
