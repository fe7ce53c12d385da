"""Every folder of `plugins/` is in the wheel and has an entry point that a host takes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import chatlm_templates.plugin
from chatlm.plugin_host.host import PluginHost
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


def test_every_shipped_plugin_is_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.name for path in (ROOT / "plugins").glob("*/plugin.py")}
    assert "chatlm_templates" in folders
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    entries = project["project"]["entry-points"]["chatlm"].values()
    assert {f"plugins/{name}" for name in folders} <= set(packages)
    assert {f"{name}.plugin" for name in folders} == {entry.partition(":")[0] for entry in entries}


def test_the_hooks_are_taken(home: Path) -> None:
    host = PluginHost([("templates", chatlm_templates.plugin)])
    assert host.take_faults() == []
    assert host.hooks_of("templates")


def test_the_hooks_are_cheap_to_import() -> None:
    code = (
        "import sys, chatlm_templates.plugin, chatlm_templates.commands;"
        "print(sorted({'yaml', 'jinja2', 'torch', 'textual'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout.strip() == "[]"
