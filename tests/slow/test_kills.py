"""Kills during start-up: none disables a plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.terminal import Terminal

pytestmark = pytest.mark.slow

KILLS = 40


def plugin_states() -> dict[str, str]:
    listed = subprocess.run(
        [sys.executable, "-m", "chatlm", "plugins", "list", "--json"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    return {row["name"]: row["status"] for row in json.loads(listed.stdout)}


def test_no_kill_in_the_first_second_disables_a_plugin(home: Path) -> None:
    home.mkdir()
    before = plugin_states()
    assert set(before.values()) == {"on"}
    for number in range(KILLS):
        terminal = Terminal(home, fresh=True)
        time.sleep((number + 1) / KILLS)  # anywhere in the first second
        os.kill(terminal.process.pid, 9)
        terminal.process.close(force=True)
    assert plugin_states() == before
