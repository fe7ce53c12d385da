"""`import chatlm` has what a plugin author needs, and imports nothing heavy for it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import chatlm
from chatlm import Image, Reasoning, Text, ToolCall, ToolResult
from chatlm.plugin_host import hookspecs
from chatlm.plugin_host.hook_table import HOOKS

SOURCE = ast.parse(Path(chatlm.__file__).read_text(encoding="utf-8"))
NAMES = {name: getattr(chatlm, name) for name in chatlm.__all__}


def names_for_type_checkers() -> list[str]:
    """The names that the module imports under TYPE_CHECKING or declares there."""
    (block,) = (
        node
        for node in SOURCE.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imported = [a.name for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names]
    declared = [ast.unparse(n.target) for n in block.body if isinstance(n, ast.AnnAssign)]
    return imported + declared


@pytest.mark.parametrize("name", chatlm.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(chatlm, name)
    assert name in dir(chatlm)


def test_no_other_name_is_there() -> None:
    name = "nonsense"
    with pytest.raises(AttributeError, match=name):
        getattr(chatlm, name)


def test_type_checkers_know_the_same_names() -> None:
    assert sorted(names_for_type_checkers()) == sorted(chatlm.__all__)


def test_importing_chatlm_imports_nothing_heavy() -> None:
    code = (
        "import sys, chatlm\n"
        "from chatlm import Image, Message, Reply, Text, hookimpl\n"
        "print({'torch', 'transformers', 'textual', 'numpy'} & sys.modules.keys() or 'light')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "light\n"


def test_a_plugin_reads_every_part_of_a_message_with_public_names() -> None:
    call = ToolCall("1", "add", "{}")
    parts = (Reasoning("hm"), Text("so"), call, ToolResult("1", "add", "3"))
    step = chatlm.ReplyStep(parts)
    message, result = step.messages()
    assert message == chatlm.Message("assistant", (Reasoning("hm"), Text("so"), call))
    assert [type(part) for part in result.parts] == [ToolResult]
    picture = Image("image/png", 1, 1, "0" * 64)
    assert isinstance(chatlm.Message("user", [picture]).parts[0], Image | chatlm.File)


def hints_of(kind: Any) -> Iterator[Any]:
    """The types of a class's public fields, properties and methods, or of a function."""
    scope = {**NAMES, **vars(sys.modules[kind.__module__]), "click": click}
    if not inspect.isclass(kind):
        yield from typing.get_type_hints(kind, localns=scope).values()
        return
    for name, member in vars(kind).items():
        found = member.fget if isinstance(member, property) else member
        if inspect.isfunction(found) and not name.startswith("_"):
            yield from typing.get_type_hints(found, localns=scope).values()
    if dataclasses.is_dataclass(kind):
        yield from typing.get_type_hints(kind, localns=scope).values()


def classes_in(hint: Any) -> Iterator[type]:
    """The classes of chatlm in a type such as `Sequence[Message] | None`."""
    if inspect.isclass(hint) and hint.__module__.startswith("chatlm."):
        yield hint
    for inner in typing.get_args(hint):
        for one in inner if isinstance(inner, list) else [inner]:
            yield from classes_in(one)


def test_whatever_a_hook_is_given_can_be_named() -> None:
    todo: list[Any] = [getattr(hookspecs, hook) for hook in HOOKS]
    seen: set[Any] = set()
    while todo:
        kind = todo.pop()
        if kind not in seen:
            seen.add(kind)
            todo += [found for hint in hints_of(kind) for found in classes_in(hint)]
    classes = {kind for kind in seen if inspect.isclass(kind)}
    assert {chatlm.Reply, chatlm.ReplyStep, chatlm.File, chatlm.PromptToken} <= classes
    assert {kind.__name__ for kind in classes} - set(chatlm.__all__) == set()
