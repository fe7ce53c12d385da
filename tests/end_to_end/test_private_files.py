"""No other user can read what chatlm stores, whatever the umask; earlier versions' files too."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests import models

GOLDEN = Path(__file__).parents[1] / "golden"
LOOSE_PLUGIN = "raise ValueError('to be logged')\n"


def chatlm(*arguments: str) -> None:
    """Run a command with a umask that lets others read and write."""
    command = [sys.executable, "-m", "chatlm", *arguments]
    done = subprocess.run(command, umask=0, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def open_to_others(folder: Path, forbidden: int = 0o077) -> list[str]:
    """The paths below a folder that others may use."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if not path.is_symlink() and path.stat().st_mode & forbidden
    ]


def test_nothing_new_can_be_read_by_others(home: Path, tmp_path: Path) -> None:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "broken.py").write_text(LOOSE_PLUGIN)
    models.lend(home, models.embedder_model())
    text = tmp_path / "notes.md"
    text.write_text("# Harbour\n\nThe lighthouse is by the pier.\n")
    chatlm("config", "set", "theme", "nord")
    chatlm("chats", "import", str(GOLDEN / "imports" / "conversations.json"))
    chatlm("rag", "build", "notes", str(text))
    chatlm("arena", "contestants", "list", "--json")
    assert {"arena.db", "chats.db", "chatlm.log", "indices"} <= {
        entry.name for entry in home.iterdir()
    }
    ours = {"plugins", "plugins/broken.py", "models"}  # made by this test
    assert set(open_to_others(home)) - ours == set()
    assert open_to_others(home, 0o022) == []


def test_a_data_folder_made_by_chatlm_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHATLM_HOME", raising=False)
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    chatlm("chats", "list")
    assert (tmp_path / "chatlm").is_dir()
    assert open_to_others(tmp_path) == []


def test_files_of_earlier_versions_become_private_at_the_next_start(home: Path) -> None:
    shutil.copytree(GOLDEN / "home", home)
    shutil.rmtree(home / "loading")  # marks of a plugin that would be left out
    (home / "kernels").mkdir()
    (home / "kernels" / "decode.so").write_bytes(b"")
    for number in range(3):
        (home / f"chatlm.log{f'.{number}' * bool(number)}").write_text("old\n")
    for path in [home, *home.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    elsewhere = home.parent / "elsewhere"
    elsewhere.write_text("not chatlm's")
    elsewhere.chmod(0o666)
    (home / "indices" / "link").symlink_to(elsewhere)
    chatlm("config", "path")
    left = set(open_to_others(home))
    assert {path.split("/")[0] for path in left} == {"config.toml", "models", "plugins"}
    assert not [path for path in open_to_others(home, 0o022) if path != "config.toml"]
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o666
    assert os.access(home / "indices" / "notes", os.X_OK)
    assert json.loads((home / "plugin-faults.json").read_text())
