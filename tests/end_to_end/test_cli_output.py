"""What a command prints where nothing can be written, and below half a reply."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from chatlm.store.store import Store
from chatlm.types.replies import StopReason

FULL = Path("/dev/full")
ENGINE = """
from chatlm import EngineError, hookimpl
from chatlm.testing import ScriptedEngine


class Failing(ScriptedEngine):
    def stream(self, request):
        for event in super().stream(request):
            if type(event).__name__ == "Finished":
                raise EngineError("The server went away.", "Start it again.")
            yield event


@hookimpl
def register_engines(register):
    register("whole", lambda name: ScriptedEngine("One two three."))
    register("half", lambda name: Failing("Half a sentence"))
"""

needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")


@pytest.fixture(autouse=True)
def engines(home: Path) -> None:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "engines.py").write_text(ENGINE)


def chatlm(
    *arguments: str, stdout: int | IO[str], stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [sys.executable, "-m", "chatlm", *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, check=False
    )


@needs_full_device
def test_an_answer_that_cannot_be_printed_is_stored_whole(home: Path) -> None:
    with FULL.open("w") as full:
        done = chatlm("ask", "-m", "whole:x", "Count", stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: The answer cannot be written to the output: No space left on device.",
        "It is saved: chatlm chats show 1",
    ]
    with Store(home / "chats.db") as store:
        reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("One two three.", StopReason.END)


@needs_full_device
@pytest.mark.parametrize(
    "arguments",
    [("ask", "-m", "whole:x", "--no-save", "Count"), ("config", "show"), ("--version",)],
    ids=lambda arguments: arguments[0],
)
def test_a_full_output_is_named_and_is_no_success(arguments: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        done = chatlm(*arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the output cannot be written: No space left on device.")
    assert "Exception" not in done.stderr


def test_an_error_begins_below_half_a_reply() -> None:
    done = chatlm("ask", "-m", "half:x", "Say it", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode != 0
    assert "Half a sentence\nError: The server went away." in done.stdout
