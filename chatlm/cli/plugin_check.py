"""Checks a plugin in a separate process, step by step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm.errors import UsageError
from chatlm.plugin_host.discovery import find_plugins

IMPORT_SECONDS = 0.5
"""Time limit for importing a plugin, without chatlm itself."""

CALL_SECONDS = 5.0
"""Time limit for one hook with a short message."""

VALUE_SECONDS = 20.0
"""Time limit for opening an engine or showing a panel, imports included."""

TOTAL_SECONDS = 90.0
"""After this the plugin's process is ended."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    step: str
    passed: bool
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "what": self.step,
            "good": self.passed,
            "text": self.detail,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError: the values are invalid.
        """
        return cls(
            step=values["what"],
            passed=values["good"],
            detail=values["text"],
        )


def check_plugin(target: str) -> list[Finding]:
    """Check a plugin in a separate process, isolated from the user's data.

    Args:
        target: a plugin's name, a .py file, or the folder of a project with a pyproject.toml.

    Raises:
        UsageError: the target does not exist.
    """
    with tempfile.TemporaryDirectory(prefix="chatlm-check-") as home:
        child = subprocess.Popen(
            [sys.executable, "-m", "chatlm.cli.plugin_check_child", *_resolve_target(target)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "CHATLM_HOME": home},
        )
        try:
            out, _ = child.communicate(timeout=TOTAL_SECONDS)
            ending = f"it ended the process with code {child.returncode}"
        except subprocess.TimeoutExpired:
            child.kill()
            out, _ = child.communicate()
            ending = f"no result within {TOTAL_SECONDS:g} s"
    lines = [json.loads(line) for line in out.decode("utf-8", "replace").splitlines()]
    findings = [Finding.from_dict(line) for line in lines if "good" in line]
    if not lines or lines[-1] != {"done": True}:
        started = [line["begin"] for line in lines if "begin" in line]
        findings.append(Finding(started[-1] if started else "import", False, ending))
    return findings


def _resolve_target(target: str) -> list[str]:
    """Return the arguments of the child process: kind and value of the target."""
    path = Path(target)
    if path.is_file() and path.suffix == ".py":
        return ["file", str(path.resolve())]
    if (path / "pyproject.toml").is_file():
        return ["project", str(path.resolve())]
    for found in find_plugins():
        if found.name == target and not found.problem:
            return ["file", found.source] if found.entry_point is None else ["name", target]
    raise UsageError(
        f"There is no plugin, .py file or project folder {target!r}.",
        hint="List installed plugins: chatlm plugins list",
    )
