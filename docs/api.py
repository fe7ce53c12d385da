"""Write docs/api.md: all names that plugins may import, from the docstrings in the source.

Run `python docs/api.py` after a change in a public name. The source is parsed, not imported.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import chatlm
from chatlm import testing

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"

GROUPS = {
    "Messages, replies and chats": (
        "chatlm.types.messages",
        "chatlm.types.parts",
        "chatlm.types.replies",
        "chatlm.types.conversations",
    ),
    "Requests, prompts and sampling": ("chatlm.types.requests", "chatlm.types.sampling"),
    "Events of a generation": ("chatlm.types.events",),
    "Engines and models": (
        "chatlm.types.engine",
        "chatlm.engines.local_engine",
        "chatlm.engines.model",
        "chatlm.engines.batching",
        "chatlm.engines.estimated_tokens",
        "chatlm.engines.stopping",
        "chatlm.engines.tokenizer",
        "chatlm.engines.training_api",
        "chatlm.engines.training_checkpoint",
    ),
    "Plugins, commands and the screen": (
        "chatlm.plugin_host.hookspecs",
        "chatlm.plugin_host.ui_api",
        "chatlm.plugin_host.settings",
        "chatlm.tui",
    ),
    "Set-ups, templates and side chats": (
        "chatlm.types.setups",
        "chatlm.chat.side_chats",
        "chatlm.chat.session",
        "chatlm.chat.replay",
    ),
    "Tools": ("chatlm.types.tools", "chatlm.types.tool_rules"),
    "Services": ("chatlm.types.services", "chatlm.plugin_host.lifecycle"),
}
"""Modules by heading; names of all other modules are in the last group."""

OTHER = "Errors, files, text and settings"

KIT_MODULES = (
    "options",
    "chat_state",
    "progress",
    "training",
    "training_runs",
    "artifacts",
    "cards",
    "screens",
)

HEADER = """\
# API reference

Every name that a plugin may import, from its docstring. The [plugin guide](plugins.md) shows them
in use. This page is written by `python docs/api.py`.
"""

SECTIONS = ("Args", "Raises", "Returns", "Yields")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | Function | ast.Assign | ast.AnnAssign


def render() -> str:
    """Return the page."""
    modules = chatlm._MODULE_OF
    grouped = {module for names in GROUPS.values() for module in names}
    parts = [HEADER]
    for heading, group in (*GROUPS.items(), (OTHER, tuple({*modules.values()} - grouped))):
        names = [name for name in modules if modules[name] in group]
        parts.append(f"## {heading}\n")
        parts += (_describe(name, modules[name]) for name in sorted(names, key=str.lower))
    parts.append("## chatlm.testing\n")
    for name in testing.__all__:
        module = "chatlm.engines.scripted" if name == "ScriptedEngine" else "chatlm.testing"
        parts.append(_describe(name, module))
    for kit in KIT_MODULES:
        module = f"chatlm.plugin_kit.{kit}"
        parts.append(f"## {module}\n")
        names = [name for name in _public_names(module) if name not in modules]
        parts += (_describe(name, module) for name in names)
    return "\n".join(parts).rstrip() + "\n"


def _describe(name: str, module: str) -> str:
    """Return the section of one name."""
    node, doc = _definitions(module)[name]
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):  # another name of it
        node, doc = _definitions(module)[node.value.id]
    if not doc:
        raise ValueError(f"{module}.{name} has no docstring")
    lines = [f"### {name}", ""]
    if isinstance(node, ast.ClassDef):
        if bases := [ast.unparse(base) for base in node.bases]:
            lines += [f"`class {name}({', '.join(bases)})`", ""]
        lines += [*_format_doc(doc), "", *_members(node)]
    elif isinstance(node, Function):
        is_context = any("contextmanager" in ast.unparse(d) for d in node.decorator_list)
        kind = " (a context manager)" if is_context else ""
        lines += [f"`{_signature(node, name)}`{kind}", "", *_format_doc(doc), ""]
    else:
        value = " ".join(ast.unparse(node.value).split()) if node.value else "…"
        lines += [f"`{name} = {value}`", "", *_format_doc(doc), ""]
    return "\n".join(lines)


def _members(node: ast.ClassDef) -> Iterator[str]:
    """Yield the lines of a class's fields, properties and methods."""
    rows = []
    for member, doc in _documented(node.body):
        name = _name_of(member)
        if name.startswith("_"):
            continue
        if isinstance(member, Function):
            is_property = any(ast.unparse(each) == "property" for each in member.decorator_list)
            title = f"{name}: {_returns(member)}" if is_property else _signature(member)
        elif isinstance(member, ast.AnnAssign):
            default = f" = {ast.unparse(member.value)}" if member.value else ""
            title = f"{name}: {ast.unparse(member.annotation)}{default}"
        elif isinstance(member, ast.Assign):
            title = f"{name} = {ast.unparse(member.value)}"
        else:
            continue
        summary = " ".join(inspect.cleandoc(doc).partition("\n\n")[0].split())
        rows.append(f"- `{title}`" + (f": {summary}" if summary else ""))
    if rows:
        yield from ("**Members**", "", *rows, "")


def _format_doc(doc: str) -> Iterator[str]:
    """Yield the lines of a docstring as Markdown; sections such as `Args:` become lists."""
    section = False
    for line in inspect.cleandoc(doc).splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            section = True
            yield from (f"**{line.rstrip(':')}**", "")
        elif section and (entry := re.fullmatch(r" {4}([\w, *]+): (.*)", line)):
            yield f"- `{entry[1]}`: {entry[2]}"
        elif section and line.startswith("    "):
            yield f"  {line.strip()}" if line.startswith("     ") else line.strip()
        else:
            yield line


def _signature(node: Function, name: str = "") -> str:
    arguments = ast.unparse(node.args)
    is_static = any(ast.unparse(each) == "staticmethod" for each in node.decorator_list)
    if not is_static:
        arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
    return f"{name or node.name}({arguments}) -> {_returns(node)}"


def _returns(node: Function) -> str:
    return ast.unparse(node.returns) if node.returns else "None"


def _public_names(module: str) -> list[str]:
    return [name for name, (_, doc) in _definitions(module).items() if name[0] != "_" and doc]


@cache
def _definitions(module: str) -> dict[str, tuple[Definition, str]]:
    """Return the definitions of a module by name, each with its docstring."""
    file = ROOT / module.replace(".", "/")
    path = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {_name_of(node): (node, doc) for node, doc in _documented(tree.body)}


def _documented(body: Sequence[ast.stmt]) -> Iterator[tuple[Definition, str]]:
    """Yield the definitions of a module or class, each with its docstring.

    That of a variable is the string below it.
    """
    for position, node in enumerate(body):
        if isinstance(node, ast.ClassDef | Function):
            yield node, ast.get_docstring(node, clean=False) or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            below = body[position + 1] if position + 1 < len(body) else None
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            yield node, str(below.value.value) if is_text else ""  # type: ignore[union-attr]


def _name_of(node: Definition) -> str:
    if isinstance(node, ast.ClassDef | Function):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return ast.unparse(target)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
