"""Only a crash inside a plugin's load, twice in a row, leaves it out; no end from outside does."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm.config.config import Config
from chatlm.plugin_host import lifecycle
from chatlm.plugin_host.crash_records import crashes_in_a_row, recorded_crashes
from chatlm.plugin_host.host import PluginHost
from tests.waiting import wait_until

LOAD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
from chatlm.config.config import Config
from chatlm.plugin_host.lifecycle import loaded_plugins
with loaded_plugins(Config()) as host:
    print(host.names)
"""

SEGFAULT = "import faulthandler, os\nos.kill(os.getpid(), 11)\n"
ABORT = "import os\nos.abort()\n"
EXIT = "import os\nos._exit(9)\n"
IN_STARTUP = "import chatlm\n@chatlm.hookimpl\ndef startup():\n    "


def add_plugin(home: Path, name: str, code: str) -> None:
    folder = home / "plugins"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(code)


def load() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("code", "ending", "said"),
    [
        (SEGFAULT, -signal.SIGSEGV, "Segmentation fault"),
        (ABORT, -signal.SIGABRT, "Aborted"),
        (EXIT, 9, "os._exit(9)"),
        (IN_STARTUP + "import os; os.abort()\n", -signal.SIGABRT, "Aborted"),
        (IN_STARTUP + "import os; os._exit(9)\n", 9, "os._exit(9)"),
    ],
)
def test_the_second_crash_in_a_row_leaves_a_plugin_out_until_it_is_enabled(
    home: Path, code: str, ending: int, said: str
) -> None:
    add_plugin(home, "bomb", code)
    assert [load().returncode for _ in range(2)] == [ending, ending]
    left_out = load()
    assert left_out.returncode == 0, left_out.stderr
    assert "bomb" not in left_out.stdout
    assert "rag" in left_out.stdout
    host = PluginHost()
    lifecycle.load_plugins(host, Config())
    (fault,) = (fault for fault in host.take_faults() if fault.plugin == "bomb")
    assert "chatlm crashed 2 times in a row while it was loaded" in str(fault)
    assert said in str(fault)
    assert "Try it again: chatlm plugins enable bomb" in str(fault)
    assert lifecycle.enable("bomb")
    assert load().returncode == ending


def test_a_load_that_goes_well_ends_the_row(home: Path) -> None:
    add_plugin(
        home,
        "bomb",
        "import os\nif 'CRASH' in os.environ:\n    os.abort()\n" + IN_STARTUP + "pass\n",
    )
    crash = {**os.environ, "CRASH": "1"}
    for _ in range(3):
        crashed = subprocess.run([sys.executable, "-c", LOAD], env=crash, capture_output=True)
        assert crashed.returncode == -signal.SIGABRT
        assert "bomb" in load().stdout


ENDS_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@pytest.mark.parametrize("code", ["", IN_STARTUP])
def test_an_end_from_outside_during_a_load_counts_for_nothing(home: Path, code: str) -> None:
    begun = home / "loading!"
    wait = f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(60)\n"
    add_plugin(home, "slow", code + wait)
    for number in ENDS_FROM_OUTSIDE:
        begun.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", LOAD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(begun.exists)
        process.send_signal(number)
        assert process.wait() != 0
        assert crashes_in_a_row("slow") == []
    add_plugin(home, "slow", IN_STARTUP + "pass\n")
    assert "slow" in load().stdout
    assert list((home / "loading").iterdir()) == []


def test_marks_that_earlier_versions_left_count_for_nothing(home: Path) -> None:
    add_plugin(home, "fine", IN_STARTUP + "pass\n")
    (home / "loading").mkdir()
    for name in ("fine", ".fine.lock", "rag"):
        (home / "loading" / name).touch()
    assert "'fine'" in load().stdout
    assert "'rag'" in load().stdout


def test_a_child_of_a_plugin_may_end_as_children_do(home: Path) -> None:
    code = "import os\nchild = os.fork()\nif not child:\n    os._exit(0)\nos.waitpid(child, 0)\n"
    add_plugin(home, "forks", code + IN_STARTUP + "pass\n")
    with recorded_crashes("forks", "import"):
        exec(compile(code, "forks", "exec"), {})
        assert (home / "loading" / "forks").read_bytes() == b""


def crash_rag(home: Path) -> None:
    (home / "loading").mkdir(parents=True, exist_ok=True)
    (home / "loading" / "rag").write_text("Fatal Python error: Aborted\n\n" * 2)


def test_a_shipped_plugin_is_loaded_whatever_its_record_says(home: Path) -> None:
    crash_rag(home)
    done = load()
    assert "'rag'" in done.stdout
    assert crashes_in_a_row("rag") == []


@pytest.mark.parametrize(("answer", "disabled"), [("y", True), ("n", False)])
def test_the_user_is_asked_about_a_shipped_plugin_that_crashes(
    home: Path, answer: str, disabled: bool
) -> None:
    crash_rag(home)
    mine, theirs = pty.openpty()
    os.write(mine, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-m", "chatlm", "plugins", "list"],
        stdin=theirs,
        capture_output=True,
        text=True,
    )
    os.close(mine)
    os.close(theirs)
    assert "crashed 2 times in a row while it loaded its plugin rag (Aborted)" in done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("rag "))
    assert (" off " in row) is disabled
    assert (" on " in row) is not disabled
