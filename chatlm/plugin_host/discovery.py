"""Discovery of plugins in installed packages and loose files, without importing any."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm.config import paths

ENTRY_POINT_GROUP = "chatlm"
"""The entry points that name plugins."""


NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""The syntax of a plugin's name, which becomes part of keys and of environment variables."""


@dataclass(frozen=True)
class PluginSource:
    """An installed plugin, not imported yet."""

    name: str
    source: str
    """`chatlm` for one that comes with it, the package's name, or the file."""
    version: str = ""
    """Of the package; empty for a loose file."""
    entry_point: importlib.metadata.EntryPoint | None = None
    """None for a loose file."""
    problem: str = ""
    """Why it cannot be loaded whatever it does; empty for none."""

    def load(self) -> Any:
        """Import it: a module, or an object of one. Raises whatever the import raises."""
        return load_file(Path(self.source)) if self.entry_point is None else self.entry_point.load()


def find_plugins() -> list[PluginSource]:
    """All plugins in the order they are loaded: chatlm's own, packages by name, loose files.

    A name that is taken already, or cannot be a plugin's, is a `problem` of the later one.
    """
    found: dict[str, PluginSource] = {}
    wrong = []
    for one in (*_installed_plugins(), *_loose_plugins()):
        problem = ""
        if one.name in found:
            problem = f"the name {one.name} is taken by the plugin of {found[one.name].source}"
        elif not NAME_PATTERN.fullmatch(one.name):
            problem = "a plugin's name begins with a letter and has letters, digits, - and _ only"
        if problem:
            wrong.append(PluginSource(one.name, one.source, one.version, one.entry_point, problem))
        else:
            found[one.name] = one
    return [*found.values(), *wrong]


def loose_files() -> list[Path]:
    """Return the user's own plugin files, sorted; names starting with `_` or `.` are skipped."""
    try:
        files = sorted(paths.user_plugins_dir().iterdir())
    except OSError:
        return []
    return [file for file in files if file.suffix == ".py" and file.name[0] not in "._"]


def load_file(file: Path) -> Any:
    """Import one file as a module of its own. Raises whatever the import raises."""
    name = f"chatlm_loose_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _installed_plugins() -> Iterator[PluginSource]:
    found = []
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        package = entry.dist.name if entry.dist else ""
        version = entry.dist.version if entry.dist else ""
        found.append(PluginSource(entry.name, package, version, entry))
    yield from sorted(found, key=lambda one: (one.source != ENTRY_POINT_GROUP, one.name))


def _loose_plugins() -> Iterator[PluginSource]:
    for file in loose_files():
        yield PluginSource(file.stem, str(file))
