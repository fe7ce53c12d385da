"""A folder of plugins that do everything wrong: the chat answers, and each fault is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import run_chatlm

HOSTILE = Path(__file__).parent / "hostile"

SLOW = (
    "from chatlm.plugin_host.host import PluginHost; import sys; from chatlm.cli.main import main\n"
    "PluginHost.__init__.__kwdefaults__['slow_after'] = 0.3\n"
    "sys.exit(main(sys.argv[1:]))"
)
"""chatlm with little patience, so that the test need not wait ten seconds."""

SAID = {
    "asynchronous": ("failed", "turn_finished is async"),
    "bad_settings": ("failed", "Settings.where needs a default"),
    "empty_messages": ("failing", "adjust_request: ValueError: returned no message of the user"),
    "exits_at_import": ("failed", "SystemExit: 3"),
    "garbage": ("failing", "returned Annotation with value = object"),
    "heavy": ("failing", "it imports torch when it is loaded"),
    "raises_at_import": ("failed", "RuntimeError: no licence found"),
    "raises_in_hooks": ("failing", "shutdown: NotEvenAnException: (no message)"),
    "raises_in_processor": ("failing", "a logits processor: ArithmeticError: third token"),
    "raises_in_write_message": ("failing", "write_message: UnicodeError: no such letter"),
    "sleeps": ("slow", "retrieve_passages: it took "),
    "slow_processor": ("slow", "a logits processor: it took "),
    "spoils_scores": ("failing", "a stopping criterion: TypeError: ask_later returned NoneType"),
    "takes_local": ("failing", "register_engines: local: is the scheme of chatlm's own models"),
    "wraps": ("failed", "build_messages is a wrapper"),
    "wrong_name": ("failed", "did you mean annotate_message?"),
    "wrong_signature": ("failed", "annotate_message has no argument mesage"),
}


def impatient(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SLOW, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=240,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.fixture
def hostile_home(chat_home: Path) -> Path:
    shutil.copytree(HOSTILE, chat_home / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    return chat_home


def test_every_hostile_plugin_is_expected() -> None:
    assert set(SAID) == {file.stem for file in HOSTILE.glob("*.py")}


def test_the_chat_answers_among_them_and_the_list_names_each_fault(hostile_home: Path) -> None:
    asked = impatient("ask", "--json", "--max-tokens", "8", "--temperature", "0", "Say hello.")
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert answer["text"]
    assert answer["stop_reason"] in ("end", "length")
    assert "Traceback" not in asked.stderr
    assert "\x1b" not in asked.stderr
    listed = {row["name"]: row for row in json.loads(impatient("plugins", "list", "--json").stdout)}
    for name, (status, said) in SAID.items():
        row = listed[name]
        assert (row["status"], said in row["error"]) == (status, True), row
    traces = json.loads(run_chatlm("chats", "show", "1", "--trace", "--json").stdout)
    failed = {call["plugin"]: call["error"] for trace in traces for call in trace["calls"]}
    assert failed["raises_in_processor"] == "ArithmeticError: third token"
    shown = run_chatlm("chats", "show", "1", "--trace").stdout
    assert "failed: UnicodeError: no such letter" in shown
    assert "dawdle, " in shown
    again = run_chatlm("chats", "replay", "1", "--safe-mode")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "The plugin" not in again.stderr


def test_safe_mode_and_without_leave_them_alone(hostile_home: Path) -> None:
    ask = ["ask", "--max-tokens", "4", "Say hello."]
    safe = run_chatlm(*ask, "--safe-mode")
    assert safe.returncode == 0
    assert "The plugin" not in safe.stderr
    most = [option for name in SAID if name != "sleeps" for option in ("--without", name)]
    spared = impatient(*ask, *most)
    assert spared.returncode == 0
    assert "The plugin sleeps was slow in retrieve_passages: it took" in spared.stderr
    assert [name for name in SAID if f"The plugin {name} " in spared.stderr] == ["sleeps"]
    assert "Did you mean sleeps?" in run_chatlm(*ask, "--without", "sleep").stderr


def test_the_command_line_works_among_them(hostile_home: Path) -> None:
    shown = impatient("--help")
    assert shown.returncode == 0
    assert "Ask one question" in shown.stdout
    lines = [line for line in shown.stderr.splitlines() if line.startswith("The plugin ")]
    assert len(lines) == len(shown.stderr.splitlines())
    assert any("raises_in_hooks failed in register_commands: SystemExit: 5" in x for x in lines)
    assert all("chatlm plugins disable" in line or "plugin's author" in line for line in lines)
