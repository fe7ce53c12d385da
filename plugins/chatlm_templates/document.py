"""The nodes of a YAML document with the line of whatever is wrong; it knows no template.

Nodes are read one by one as what is wanted there, so that nothing is guessed (`no` stays a text
where a text is wanted) and no alias can grow.
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode


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
