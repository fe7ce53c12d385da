"""`chatlm config` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import run_chatlm


@pytest.fixture(autouse=True)
def plain_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "CHATLM_MODEL",
        "CHATLM_DEVICE",
        "CHATLM_WEIGHTS",
        "CHATLM_DTYPE",
        "VISUAL",
        "EDITOR",
    ):
        monkeypatch.delenv(name, raising=False)


def config(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_chatlm("config", *arguments, environment=environment)


def test_set_show_unset(home: Path) -> None:
    file = home / "config.toml"
    assert config("path").stdout == f"{file}\n"
    done = config("set", "sampling.temperature", "0.3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert file.read_text() == "[sampling]\ntemperature = 0.3\n"
    lines = {line.split()[0]: line.split()[1:] for line in config("show").stdout.splitlines()}
    assert lines["KEY"] == ["VALUE", "FROM"]
    assert lines["sampling.temperature"] == ["0.3", "config.toml"]
    assert lines["model"] == ["smollm2-135m-instruct", "default"]
    assert lines["context"] == ["-", "default"]
    assert config("unset", "sampling.temperature").stderr == ""
    assert "is not in" in config("unset", "sampling.temperature").stderr


def test_show_json_has_value_source_and_help(home: Path) -> None:
    home.mkdir()
    text = 'system = "a\\u001b[31m"\n[sampling]\nstop = ["x"]\n[plugins.p]\nday = 2026-01-02\n'
    (home / "config.toml").write_text(text)
    done = config("show", "--json", CHATLM_DEVICE="cpu")
    assert "\x1b" not in done.stdout
    settings = {setting["key"]: setting for setting in json.loads(done.stdout)}
    assert settings["system"]["value"] == "a\x1b[31m"
    assert settings["sampling.stop"]["value"] == ["x"]
    assert settings["device"] == {
        "key": "device",
        "value": "cpu",
        "source": "environment CHATLM_DEVICE",
        "help": "the device that the model runs on",
    }
    assert settings["plugins.p.day"]["value"] == "2026-01-02"
    assert "␛[31m" in config("show").stdout


def test_a_wrong_value_is_refused_with_the_range() -> None:
    done = config("set", "sampling.top_p", "2")
    assert done.returncode == 2
    assert "sampling.top_p must be a number from 0 to 1, not 2" in done.stderr
    assert "Did you mean model?" in config("set", "modle", "x").stderr


def test_an_override_by_the_environment_is_reported() -> None:
    done = config("set", "device", "cpu", CHATLM_DEVICE="cuda")
    assert done.returncode == 0
    assert "CHATLM_DEVICE in the environment overrides it" in done.stderr


def test_edit_opens_the_editor_and_checks_the_file(home: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import sys; from pathlib import Path\n"
        "path = Path(sys.argv[1]); path.write_text(path.read_text() + 'theme = \"nord\"\\n')\n"
    )
    command = f"{sys.executable} {editor}"
    assert config("edit", EDITOR=command).returncode == 0
    assert (home / "config.toml").read_text().endswith('config show\ntheme = "nord"\n')
    again = config("edit", EDITOR=command)
    assert again.returncode == 2
    assert "line 3" in again.stderr
    assert config("edit", EDITOR="false").returncode == 1
