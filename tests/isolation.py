"""A test run cannot reach the user's folders: it and all that it starts live in a temporary home.

Every worker has its own, so that no two of them meet in one database or one mark of a plugin that
is loading. What is expensive and the same for all, the models and the compiled kernel, is shared
through `tests.models`.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import models

PIP_CONFIGS = (".config/pip/pip.conf", ".pip/pip.conf", "Library/Application Support/pip/pip.conf")


def enter() -> TemporaryDirectory[str]:
    """Point every variable that leads to the user's folders into a new one, and return it."""
    folder = TemporaryDirectory(prefix="chatlm-tests-", ignore_cleanup_errors=True)
    user = Path(folder.name)
    _keep_caches(Path.home())
    for name in ("DATA", "CONFIG", "STATE"):
        os.environ[f"XDG_{name}_HOME"] = str(user / name.lower())
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(user)
    os.environ["CHATLM_HOME"] = str(user / "chatlm")
    models.lend_kernels(user / "chatlm")
    return folder


def _keep_caches(real: Path) -> None:
    """Let downloads still use the user's caches and package index; chatlm writes to neither."""
    os.environ.setdefault("XDG_CACHE_HOME", str(real / ".cache"))
    config = Path(os.environ.get("XDG_CONFIG_HOME", real / ".config"), "pip", "pip.conf")
    for path in (config, *(real / name for name in PIP_CONFIGS)):
        if path.is_file():
            os.environ.setdefault("PIP_CONFIG_FILE", str(path))
