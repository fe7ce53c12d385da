"""Writes a file of each kind that tests once left in the user's folders; for test_isolation."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

from chatlm.config import paths
from chatlm.config.config import Config
from chatlm.engines.native.compiler import KernelUnavailable, kernel_library
from chatlm.plugin_host.lifecycle import loaded_plugins
from chatlm.store.store import Store


def test_files_of_each_kind_are_written() -> None:
    with loaded_plugins(Config()), Store(paths.database_file()) as store:
        store.create_conversation("written by a test")
    for command in (("rag", "list"), ("config", "set", "theme", "textual-light")):
        subprocess.run([sys.executable, "-m", "chatlm", *command], check=True)
    with suppress(KernelUnavailable):  # there may be no compiler
        kernel_library(float32=False)
    assert paths.config_file().is_file()
    names = {path.name for path in paths.data_dir().iterdir()}
    assert {"chats.db", "loading", "plugin-commands.json"} <= names
