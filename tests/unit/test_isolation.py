"""A test run neither touches nor sees the user's own chats, settings, logs and terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm.config import paths
from tests import isolation

ROOT = Path(__file__).parents[2]
WRITERS = Path(__file__).with_name("writes_files.py")

PLACES = """
from chatlm.config import paths
print(paths.data_dir(), paths.config_file(), paths.log_file(), sep="\\n")
"""


def places() -> list[Path]:
    return [paths.data_dir(), paths.config_file(), paths.log_file()]


@pytest.mark.parametrize("lost", [(), ("CHATLM_HOME",)])
def test_every_place_is_temporary_here_and_in_programs_started_here(
    monkeypatch: pytest.MonkeyPatch, lost: tuple[str, ...]
) -> None:
    temporary = Path(os.environ["CHATLM_HOME"]).parent
    for name in lost:
        monkeypatch.delenv(name)
    assert all(place.is_relative_to(temporary) for place in places())
    done = subprocess.run([sys.executable, "-c", PLACES], capture_output=True, text=True)
    assert [Path(line) for line in done.stdout.splitlines()] == places()


def test_the_users_settings_and_terminal_do_not_reach_the_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "20", "CHATLM_THEME": "nord"}
    monkeypatch.setattr(os, "environ", {**theirs, "CHATLM_TEST_HOME": "/models"})
    isolation.forget_preferences()
    assert os.environ == {"TERM": "xterm", "CHATLM_TEST_HOME": "/models"}


def test_a_test_run_writes_nothing_into_the_users_folders(tmp_path: Path) -> None:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "CHATLM_HOME" and (name == "XDG_CACHE_HOME" or not name.startswith("XDG_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", str(WRITERS)],
        cwd=ROOT,
        env={**kept, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    assert list(tmp_path.rglob("*")) == []
