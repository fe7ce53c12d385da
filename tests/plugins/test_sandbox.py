"""The sandbox of the tools: what is refused in it, and what it ends."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chatlm_tools.sandbox import seccomp
from chatlm_tools.sandbox.limits import Limits, Outcome
from chatlm_tools.sandbox.sandbox import Sandbox, SandboxUnavailable, _try_tier, missing_reason
from chatlm_tools.sandbox.spec import Tier
from tests.waiting import wait_until

ATTEMPTS = Path(__file__).with_name("sandbox_attempts.py")
LIMITS = Limits(seconds=300, memory=1 << 30)


@pytest.fixture(scope="module", params=["landlock", "bubblewrap"])
def tier(request: pytest.FixtureRequest) -> Tier:
    name: Tier = request.param
    if reason := missing_reason(name) or _try_tier(name):
        pytest.skip(f"{name}: {reason}")
    return name


def run_python(tier: Tier, code: str, **limits: Any) -> Outcome:
    with Sandbox(tier, replace(LIMITS, **limits)).open() as run:
        return run([sys.executable, "-I", "-c", code])


@dataclass
class Outside:
    """Things outside of the sandbox that programs try to reach."""

    folder: Path
    facts: Path
    victim: subprocess.Popen[bytes]


def _serve(server: socket.socket) -> None:
    server.listen()

    def answer() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.sendall(b"hello")

    threading.Thread(target=answer, daemon=True).start()


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    monkeypatch.setenv("CHATLM_SECRET", "a token")
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("secret", "victim", "doomed", "movable"):
        (folder / name).write_text(f"{name} text")
    program = folder / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o700)
    sockets = tempfile.TemporaryDirectory(prefix="s-", dir="/tmp")  # whose path is short
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(f"{sockets.name}/s")
    abstract = socket.socket(socket.AF_UNIX)
    abstract_name = f"chatlm-sandbox-{uuid.uuid4()}"
    abstract.bind("\0" + abstract_name)
    tcp = socket.create_server(("127.0.0.1", 0))
    for server in (unix, abstract, tcp):
        _serve(server)
    victim = subprocess.Popen(["sleep", "600"], cwd=folder)
    facts = {
        "outside": str(folder),
        "secret": str(folder / "secret"),
        "victim_file": str(folder / "victim"),
        "doomed": str(folder / "doomed"),
        "movable": str(folder / "movable"),
        "program": str(program),
        "unix_socket": f"{sockets.name}/s",
        "abstract_socket": abstract_name,
        "port": tcp.getsockname()[1],
        "victim": victim.pid,
    }
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(facts))
    yield Outside(folder, path, victim)
    victim.kill()
    victim.wait()
    for server in (unix, abstract, tcp):
        server.close()
    sockets.cleanup()


def test_no_attempt_gets_out(tier: Tier, outside: Outside) -> None:
    with Sandbox(tier, LIMITS).open() as run:
        shutil.copy(ATTEMPTS, run.path / "attempts.py")
        shutil.copy(outside.facts, run.path / "facts.json")
        outcome = run([sys.executable, "-I", "attempts.py", "facts.json"])
    assert outcome.exit_code == 0, outcome
    results = json.loads(outcome.stdout)
    assert len(results) > 60
    assert {name: got for name, got in results.items() if got is not None} == {}
    assert (outside.folder / "secret").read_text() == "secret text"
    assert (outside.folder / "victim").read_text() == "victim text"
    assert (outside.folder / "doomed").exists()
    assert (outside.folder / "movable").exists()
    assert not (outside.folder / "made").exists()
    assert outside.victim.poll() is None


def test_the_same_attempts_succeed_without_a_sandbox(outside: Outside, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    result = subprocess.run(
        [sys.executable, "-I", str(ATTEMPTS), str(outside.facts), "harmless"],
        cwd=work,
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads(result.stdout)
    assert len(results) > 25
    assert [name for name, got in results.items() if got is None] == []


def test_a_32_bit_system_call_ends_the_program(tier: Tier) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("only x86-64 has them")
    code = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))  # getpid, by its 32-bit number
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
print("got", ctypes.CFUNCTYPE(ctypes.c_int)(address)())
"""
    outcome = run_python(tier, code)
    assert outcome.exit_code != 0
    assert "got" not in outcome.stdout


def test_a_program_works_in_its_folder(tier: Tier) -> None:
    code = """
import os, pathlib, subprocess, tempfile, threading
pathlib.Path("a").mkdir()
pathlib.Path("a/one.txt").write_text("one")
pathlib.Path("one.txt").write_text("one")
os.rename("one.txt", "two.txt")
os.symlink("two.txt", "three.txt")
with tempfile.TemporaryFile() as file:
    file.write(b"x")
thread = threading.Thread(target=print, args=("thread",))
thread.start(); thread.join()
print(pathlib.Path("three.txt").read_text(), flush=True)
print(subprocess.run(["sh", "-c", "cat two.txt | tr o O"], capture_output=True).stdout)
"""
    outcome = run_python(tier, code)
    assert (outcome.exit_code, outcome.stopped, outcome.stderr) == (0, "", "")
    assert outcome.stdout.splitlines() == ["thread", "one", "b'One'"]


def test_folders_that_are_named_can_be_read_but_not_written(tier: Tier, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a note")
    with Sandbox(tier, LIMITS, [tmp_path]).open() as run:
        outcome = run(["sh", "-c", f"cat {tmp_path}/notes.txt; echo x > {tmp_path}/new"])
    assert outcome.stdout == "a note"
    assert outcome.exit_code != 0
    assert not (tmp_path / "new").exists()


def test_a_run_leaves_no_folder(tier: Tier) -> None:
    with Sandbox(tier, LIMITS).open() as run:
        run(["sh", "-c", "mkdir -m 0 locked; touch -- -rf '*'"])
        path = run.path
        assert path.exists()
    assert not path.exists()


def test_time_ends_a_program_that_ignores_signals(tier: Tier) -> None:
    code = """
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True: pass
"""
    outcome = run_python(tier, code, seconds=1.5)
    assert outcome.stopped == "time"
    assert outcome.exit_code != 0


def test_output_is_limited(tier: Tier) -> None:
    outcome = run_python(tier, "while True: print('x' * 1000)", output=50_000)
    assert outcome.stopped == "output"
    assert len(outcome.stdout) == 50_000


def test_cancelling_kills_everything(tier: Tier) -> None:
    with Sandbox(tier, LIMITS).open() as run:
        started = time.monotonic()
        outcome = run(
            ["sh", "-c", "sleep 300 & sleep 301"], cancelled=lambda: time.monotonic() > started + 1
        )
    assert outcome.stopped == "cancelled"
    assert not _running("sleep", "301")
    assert not _running("sleep", "300")


def _running(*command: str) -> bool:
    wanted = "\0".join(command).encode()
    for folder in Path("/proc").iterdir():
        try:
            if wanted in (folder / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def test_orphans_end_with_the_program(tier: Tier) -> None:
    code = """
import os, subprocess
for n in range(3):
    if os.fork() == 0:
        try: os.setsid()
        except OSError: pass
        if os.fork() == 0:
            try: os.setsid()
            except OSError: pass
            os.execvp("sleep", ["sleep", "4711.25"])
        os._exit(0)
print("done")
"""
    outcome = run_python(tier, code)
    assert (outcome.exit_code, outcome.stdout) == (0, "done\n")
    assert not _running("sleep", "4711.25")


def test_the_program_ends_when_chatlm_is_killed(tier: Tier, tmp_path: Path) -> None:
    code = f"""
import sys
from chatlm_tools.sandbox.limits import Limits
from chatlm_tools.sandbox.sandbox import Sandbox
with Sandbox({tier!r}, Limits(seconds=600)).open() as run:
    run(["sh", "-c", "(sleep 4712.5 &); sleep 4712.5"])
"""
    chatlm = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    wait_until(lambda: _running("sleep", "4712.5"))
    chatlm.send_signal(signal.SIGKILL)
    chatlm.wait()
    wait_until(lambda: not _running("sleep", "4712.5"))


def test_the_folder_around_python_is_not_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment may have been made in the user's home."""
    from chatlm_tools.sandbox import sandbox

    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    sandbox.python_folders.cache_clear()
    try:
        folders = [Path(folder) for folder in sandbox.python_folders()]
    finally:
        sandbox.python_folders.cache_clear()
    assert tmp_path / "lib" in folders
    assert not any(folder == tmp_path or folder in tmp_path.parents for folder in folders)


def test_a_machine_without_any_tier_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from chatlm_tools.sandbox import sandbox

    monkeypatch.setattr(sandbox, "missing_reason", lambda tier: "not here")
    sandbox.available_tier.cache_clear()
    try:
        with pytest.raises(SandboxUnavailable, match="landlock: not here"):
            Sandbox.best(LIMITS)
    finally:
        sandbox.available_tier.cache_clear()


def test_a_command_says_what_contains_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    from chatlm_tools.commands import sandbox as command
    from chatlm_tools.sandbox import sandbox

    for tier, code in (("landlock", 0), (None, 1)):
        monkeypatch.setattr(sandbox, "available_tier", lambda tier=tier: (tier, "bubblewrap: no"))
        result = CliRunner().invoke(command, ["--json"])
        assert (json.loads(result.output), result.exit_code) == (
            {"tier": tier, "missing": ["bubblewrap: no"]},
            code,
        )
        text = CliRunner().invoke(command).output
        assert ("landlock" in text) == (tier is not None)
        assert "Not available: bubblewrap: no" in text


def test_the_filter_is_made_for_known_machines_alone() -> None:
    assert len(seccomp.build_filter(landlock_abi=7, machine="aarch64")) % 8 == 0
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.build_filter(landlock_abi=7, machine="riscv64")


FORK = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""
GROW = "data = []\nwhile True: data.append(bytearray(b'x') * (1 << 20))"
GROW_TOGETHER = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        data = bytearray(b"x") * (60 << 20)
        time.sleep(600)
time.sleep(600)
"""
THREADS = """
import threading, time
while True: threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""
FILL = """
n = 0
while True:
    n += 1
    with open(f"file{n}", "wb") as file:
        file.write(bytes(1 << 20))
"""
FILL_REMOVED = """
import os
kept = []
while True:
    file = open("file", "wb", buffering=0)
    os.unlink("file")
    file.write(bytes(1 << 20))
    kept.append(file)
"""
ONE_FILE = "file = open('file', 'wb', buffering=0)\nwhile True: file.write(bytes(1 << 20))"
MANY_FILES = "n = 0\nwhile True:\n    n += 1\n    open(f'file{n}', 'w').close()"
NEST = "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "causes"),
    [
        (FORK, {"processes", "time"}),  # the kernel refuses to fork, or the supervisor sees it
        (THREADS, {"processes", ""}),
        (GROW, {"memory", ""}),
        (GROW_TOGETHER, {"memory"}),
        (FILL, {"disk"}),
        (FILL_REMOVED, {"disk"}),
        (ONE_FILE, {"disk", ""}),
        (MANY_FILES, {"disk"}),
        (NEST, {"disk", ""}),
    ],
    ids=[
        "fork",
        "threads",
        "memory",
        "memory of many",
        "disk",
        "removed files",
        "one file",
        "many files",
        "nested",
    ],
)
def test_what_a_program_uses_is_limited(tier: Tier, code: str, causes: set[str]) -> None:
    seconds = 8 if "time" in causes else 300
    outcome = run_python(tier, code, memory=512 << 20, disk=64 << 20, files=2000, seconds=seconds)
    assert outcome.exit_code != 0
    assert outcome.stopped in causes
    assert outcome.peak_memory < 2 << 30
