"""Keeps which commands the plugins have, and for how long that holds; knows no plugin."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm import paths


@dataclass(frozen=True)
class Known:
    """A plugin's command as the list shows it."""

    plugin: str
    help: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "plugin": self.plugin,
            "help": self.help,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Known:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            plugin=values["plugin"],
            help=values["help"],
        )


def read() -> dict[str, Known] | None:
    """The commands by name, as they were kept; None when anything changed since."""
    try:
        kept = json.loads(_file().read_text(encoding="utf-8"))
        if kept["now"] != _state(kept["files"]):
            return None
        return {name: Known.from_dict(values) for name, values in kept["commands"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write(commands: Mapping[str, Known], modules: Iterable[str]) -> None:
    """Keep the commands for the next start; a folder that cannot be written goes without.

    Args:
        commands: by name.
        modules: that were imported to find them; a change in one of their files ends it.
    """
    from chatlm.files import write_atomically

    found = (getattr(sys.modules.get(name), "__file__", None) for name in modules)
    files = sorted({file for file in found if isinstance(file, str)})
    kept = {
        "now": _state(files),
        "files": files,
        "commands": {name: known.to_dict() for name, known in commands.items()},
    }
    with suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_file(), [json.dumps(kept)])


def _file() -> Path:
    return paths.data_dir() / "plugin-commands.json"


def _state(files: list[str]) -> dict[str, Any]:
    """What tells that a plugin came, went, changed or was switched, without opening a file."""
    watched = [__file__, str(paths.config_file()), str(paths.user_plugins()), *files, *sys.path]
    with suppress(OSError):
        watched += map(str, paths.user_plugins().iterdir())
    return {path: _stamp(Path(path)) for path in watched}


def _stamp(path: Path) -> list[int] | None:
    try:
        at = path.stat()
    except OSError:
        return None
    return [at.st_mtime_ns, at.st_size]
