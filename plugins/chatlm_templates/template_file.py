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
from chatlm_templates.template import FACT, PARTS, TYPES, Example, Template, Value, Variable

MOST_BYTES = 100_000
"""The largest file that is read."""


_TEXTS = ("system", *(part for part in PARTS if part != "examples"), "user")


_HINTS = ("description", "model", "adapter", "index", "input")


_KEYS = (*_HINTS, "sampling", "variables", *_TEXTS, "examples")


NAMES = "a name has small letters, digits and single hyphens"
"""What `may_be_called` accepts, in words."""


_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


_VARIABLE = re.compile(r"[a-z][a-z0-9_]*")


class TemplateFault(ChatlmError):
    """A template's file cannot be used.

    Args:
        path: the file.
        line: where; 0 for the file as a whole.
        what: what is wrong.
    """

    exit_code = 2

    def __init__(self, path: Path, line: int, what: str) -> None:
        place = f"{path}, line {line}" if line else f"{path}"
        super().__init__(f"{place}: {what.rstrip('.')}.")
        self.path = path
        self.line = line
        self.what = what


def read(path: Path) -> Template:
    """The template that a file holds; it is called like the file.

    Raises:
        TemplateFault: the file cannot be read, or something in it is wrong.
    """
    try:
        if path.stat().st_size > MOST_BYTES or not path.is_file():
            raise TemplateFault(path, 0, f"it is no file of at most {MOST_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise TemplateFault(path, 0, f"it cannot be read: {error.strerror}") from error
    if not may_be_called(path.stem):
        raise TemplateFault(path, 0, f"it cannot be called {path.stem!r}; {NAMES}")
    try:
        return _template(path.stem, compose(content))
    except Wrong as wrong:
        raise TemplateFault(path, wrong.line, wrong.what) from wrong


def may_be_called(name: str) -> bool:
    """Whether a template may have this name."""
    return bool(_NAME.fullmatch(name))


def _template(name: str, root: Node | None) -> Template:
    if root is None:
        raise Wrong(1, "it is empty")
    nodes = entries(root, _KEYS)
    texts = {key: _text(nodes[key]) for key in _TEXTS if key in nodes}
    hints = {key: scalar(nodes[key]) for key in _HINTS if key in nodes}
    variables = _variables(nodes["variables"]) if "variables" in nodes else {}
    if not any(texts.values()) and "examples" not in nodes:
        raise Wrong(line_of(root), f"it says nothing; it may have {', '.join(_TEXTS)}")
    _check_names(nodes, texts, variables)
    if "input" in nodes and (
        hints["input"] not in variables
        or variables[hints["input"]].type not in ("text", "multiline")
    ):
        raise Wrong(line_of(nodes["input"]), "input must name a text or multiline variable")
    return Template(
        name=name,
        variables=variables,
        examples=tuple(map(_example, items(nodes["examples"]))) if "examples" in nodes else (),
        sampling=_sampling(nodes["sampling"]) if "sampling" in nodes else Sampling(),
        **texts,
        **hints,
    )


def _text(node: Node) -> str:
    """A text; a list becomes one line an item, behind a hyphen."""
    if isinstance(node, SequenceNode):
        return "\n".join(f"- {scalar(item).strip()}" for item in items(node))
    return scalar(node).strip()


def _check_names(
    nodes: Mapping[str, Node], texts: Mapping[str, str], variables: Mapping[str, Variable]
) -> None:
    used: set[str] = set()
    for key, text in texts.items():
        first = first_line(nodes[key])
        try:
            names = expressions.names_in(text)
        except expressions.LanguageError as error:
            raise Wrong(first + error.line - 1, f"{key}: {error.what}") from error
        for name, line in names.items():
            if name not in variables:
                raise Wrong(
                    first + line - 1, f"{key}: {name} is not one of the template's variables"
                )
        used |= names.keys()
    for name in variables:
        if name not in used:
            raise Wrong(line_of(nodes["variables"]), f"the variable {name} stands in no text")


def _variables(node: Node) -> dict[str, Variable]:
    return {name: _variable(name, value) for name, value in entries(node).items()}


def _variable(name: str, node: Node) -> Variable:
    if not _VARIABLE.fullmatch(name):
        raise Wrong(line_of(node), f"{name!r} may have small letters, digits and underscores")
    nodes = entries(node, ("type", "description", "default", "choices", "required"))
    kind = scalar(nodes["type"]) if "type" in nodes else "text"
    if kind not in TYPES:
        raise Wrong(line_of(nodes["type"]), f"{name}: the types are {', '.join(TYPES)}")
    choices = tuple(map(scalar, items(nodes["choices"]))) if "choices" in nodes else ()
    if (kind == "choice") != bool(choices):
        raise Wrong(line_of(node), f"{name}: a choice has choices, and nothing else has")
    required = flag(nodes["required"]) if "required" in nodes else "default" not in nodes
    if kind == FACT and "default" not in nodes:
        raise Wrong(line_of(node), f"{name}: a fact has a default, for where no plugin knows it")
    if required and "default" in nodes:
        raise Wrong(line_of(nodes["default"]), f"{name} has a default, so it is not required")
    variable = Variable(
        name=name,
        type=kind,
        description=scalar(nodes["description"]) if "description" in nodes else "",
        choices=choices,
        required=required,
    )
    if "default" not in nodes:
        return variable
    return _with_default(variable, nodes["default"])


def _with_default(variable: Variable, node: Node) -> Variable:
    try:
        default: Value = variable.parse(scalar(node))
    except UsageError as error:
        raise Wrong(line_of(node), f"the default of {error.message}") from error
    return replace(variable, default=default)


def _example(node: Node) -> Example:
    nodes = entries(node, ("input", "output", "explanation", "kind"))
    for key in ("input", "output"):
        if key not in nodes:
            raise Wrong(line_of(node), f"this example has no {key}")
    kind = scalar(nodes["kind"]) if "kind" in nodes else "positive"
    if kind not in ("positive", "negative"):
        raise Wrong(line_of(nodes["kind"]), "an example's kind is positive or negative")
    if kind == "negative" and "explanation" not in nodes:
        raise Wrong(line_of(node), "a negative example needs an explanation of what is wrong")
    return Example(
        input=scalar(nodes["input"]).strip(),
        output=scalar(nodes["output"]).strip(),
        explanation=scalar(nodes["explanation"]).strip() if "explanation" in nodes else "",
        positive=kind == "positive",
    )


def _sampling(node: Node) -> Sampling:
    sampling = Sampling()
    for name, value in entries(node).items():
        said = (
            [scalar(item) for item in items(value)]
            if isinstance(value, SequenceNode)
            else plain(value)
        )
        try:
            sampling = Sampling.from_dict({name: said}).over(sampling)
        except UsageError as error:
            raise Wrong(line_of(value), error.message) from error
    return sampling


class Wrong(Exception):
    """Something in a document that cannot be used.

    Args:
        line: 1 for the first.
        what: what is wrong.
    """

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


def compose(content: bytes) -> Node | None:
    """The document's root; None for an empty one.

    Raises:
        Wrong: it is not UTF-8 or not YAML.
    """
    try:
        return yaml.compose(content.decode("utf-8-sig"), yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise Wrong(content.count(b"\n", 0, error.start) + 1, "it is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise Wrong(mark.line + 1 if mark else 1, f"it is not YAML: {what}") from error
    except yaml.YAMLError as error:
        raise Wrong(1, f"it is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise Wrong(1, "it is nested too deeply") from error


def line_of(node: Node) -> int:
    """Where the node begins."""
    return int(node.start_mark.line) + 1


def first_line(node: Node) -> int:
    """Where the text of a node begins, which for a block is the line below its `|`."""
    return line_of(node) + (isinstance(node, ScalarNode) and node.style in ("|", ">"))


def entries(node: Node, known: Collection[str] = ()) -> dict[str, Node]:
    """The values of a mapping by their key.

    Args:
        node: the mapping.
        known: the keys it may have; empty for any.

    Raises:
        Wrong: it is no mapping, a key comes twice, or is not known.
    """
    if not isinstance(node, MappingNode):
        raise Wrong(line_of(node), "here belong lines of the form `key: value`")
    found: dict[str, Node] = {}
    for key, value in node.value:
        name = scalar(key)
        if name in found:
            raise Wrong(line_of(key), f"{name} stands here a second time")
        if known and name not in known:
            near = get_close_matches(name, known, 1)
            end = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise Wrong(line_of(key), f"there is no {name!r} here; {end}")
        found[name] = value
    return found


def items(node: Node) -> list[Node]:
    """The nodes of a list.

    Raises:
        Wrong: it is no list.
    """
    if not isinstance(node, SequenceNode):
        raise Wrong(line_of(node), "here belongs a list, each item behind a `-`")
    return list(node.value)


def scalar(node: Node) -> str:
    """The text of a single value, as it stands there.

    Raises:
        Wrong: it is a list or a mapping.
    """
    if not isinstance(node, ScalarNode):
        raise Wrong(line_of(node), "here belongs a single value")
    return str(node.value)


def flag(node: Node) -> bool:
    """A true or false.

    Raises:
        Wrong: it is something else.
    """
    value = plain(node)
    if not isinstance(value, bool):
        raise Wrong(line_of(node), "here belongs true or false")
    return value


def plain(node: Node) -> Any:
    """The value that YAML takes a single value for: a text, number, bool or None.

    Raises:
        Wrong: it is a list or a mapping.
    """
    scalar(node)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise Wrong(line_of(node), "this is no value that YAML knows") from error
    finally:
        loader.dispose()
