"""A test run is isolated from the user's folders, settings and terminal.

It and the programs it starts live in a temporary home. Every worker has its own, so that they share
no database and no mark of a plugin that is loading. Models and the compiled kernel are expensive
and equal for all, and are shared through `tests.models`.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import models

PIP_CONFIGS = (".config/pip/pip.conf", ".pip/pip.conf", "Library/Application Support/pip/pip.conf")

TERMINAL = {"TERM": "xterm"}
TERMINAL_OVERRIDES = (
    *("COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM_PROGRAM"),
    *("KITTY_WINDOW_ID", "GHOSTTY_RESOURCES_DIR", "SSH_CONNECTION", "SSH_TTY", "TMUX"),
)
"""Variables by which a user changes what programs draw."""

KEPT_SETTINGS = ("CHATLM_TEST_HOME", "CHATLM_SHARED_DATA")
"""The other variables of chatlm are the user's settings."""


def enter() -> TemporaryDirectory[str]:
    """Point every variable that leads to the user's folders into a new one, and return it."""
    forget_preferences()
    folder = TemporaryDirectory(prefix="chatlm-tests-", ignore_cleanup_errors=True)
    user = Path(folder.name)
    _keep_caches(Path.home())
    for name in ("DATA", "CONFIG", "STATE"):
        os.environ[f"XDG_{name}_HOME"] = str(user / name.lower())
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(user)
    os.environ["CHATLM_HOME"] = str(user / "chatlm")
    os.environ["CHATLM_OPENAI_FIND_SERVERS"] = "false"  # whatever runs on this machine
    models.lend_kernels(user / "chatlm")
    return folder


def forget_preferences() -> None:
    """Remove the user's settings of chatlm and of the terminal from the environment."""
    for name in list(os.environ):
        if name.startswith("CHATLM_") and name not in KEPT_SETTINGS:
            del os.environ[name]
    for name in TERMINAL_OVERRIDES:
        os.environ.pop(name, None)
    os.environ.update(TERMINAL)


def _keep_caches(real: Path) -> None:
    """Let downloads still use the user's caches and package index; chatlm writes to neither."""
    os.environ.setdefault("XDG_CACHE_HOME", str(real / ".cache"))
    os.environ.setdefault("MPLCONFIGDIR", str(models.shared_home() / "matplotlib"))  # a font cache
    config = Path(os.environ.get("XDG_CONFIG_HOME", real / ".config"), "pip", "pip.conf")
    for path in (config, *(real / name for name in PIP_CONFIGS)):
        if path.is_file():
            os.environ.setdefault("PIP_CONFIG_FILE", str(path))
