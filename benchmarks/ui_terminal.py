"""A program in a pseudo-terminal: keys and output, with the time of each.

What was drawn is only kept while the program runs, and read afterwards: a terminal emulator in
Python would take a core away from the program that is measured.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pyte

COLUMNS, LINES = 120, 40

FRAME = b"\x1b[?2026h"
"""Starts a synchronized update; programs that know of the support draw each frame in one."""

ANSWERS = {
    b"\x1b[?2026$p": "\x1b[?2026;2$y",  # synchronized updates work
    b"\x1b[c": "\x1b[?62;22c",  # a VT220 with colours
    b"\x1b[16t": "\x1b[6;16;8t",  # a cell is 16 pixels high and 8 wide
}
"""Responses of terminals to queries; some programs wait for them."""

NOT_FOR_PYTE = re.compile(
    rb"\x1b\[[<>=?][0-9;]*[a-z]|\x1b\[\?[0-9;]*\$p|\x1b[P_^].*?\x1b\\", re.DOTALL
)
"""Sequences that pyte would print as text."""


@dataclass(frozen=True)
class Key:
    """A key press with its time, and the text that the composer must then show."""

    at: float
    shows: str


@dataclass(frozen=True)
class Usage:
    """Resources used by a process so far."""

    at: float
    cpu: float
    """Seconds, of all its threads."""
    memory: int
    """Resident memory in bytes."""


class Terminal:
    """Starts `command`; times are of `time.perf_counter`.

    Args:
        command: the program and its arguments.
        environment: variables beside the present ones.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.keys: list[Key] = []
        self._drawn: list[tuple[float, bytes]] = []
        self.started = time.perf_counter()
        variables = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._process = pexpect.spawn(
            command[0],
            list(command[1:]),
            env={**variables, **environment},
            dimensions=(LINES, COLUMNS),
            timeout=None,
        )
        self._process.delaybeforesend = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def type(self, text: str) -> None:
        """Send text or control characters."""
        self._process.send(text)

    def press(self, key: str, shows: str) -> None:
        """Press a key and record it for `latencies`."""
        self.keys.append(Key(time.perf_counter(), shows))
        self._process.send(key)

    def wait_for(self, *texts: bytes, seconds: float = 120.0) -> None:
        """Wait until all texts have been drawn, each in one piece.

        Raises:
            TimeoutError: they were not, in so many seconds.
        """
        deadline = time.perf_counter() + seconds
        while not all(any(text in piece for _, piece in list(self._drawn)) for text in texts):
            if time.perf_counter() > deadline or not self._reader.is_alive():
                raise TimeoutError(f"{texts} never came; the screen:\n" + self.last_screen())
            time.sleep(0.05)

    def usage(self) -> Usage:
        """Return the CPU time and memory of the process, as reported by Linux."""
        folder = Path("/proc") / str(self._process.pid)
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        pages = int((folder / "statm").read_text().split()[1])
        return Usage(time.perf_counter(), cpu, pages * os.sysconf("SC_PAGE_SIZE"))

    def close(self) -> None:
        """Kill the program; it has nothing to save."""
        self._process.kill(signal.SIGKILL)
        self._process.wait()
        self._process.close()
        self._reader.join()

    def frames(self, start: float, end: float) -> int:
        """Count the frames drawn between two times."""
        return sum(piece.count(FRAME) for at, piece in self._drawn if start <= at < end)

    def screens(self) -> Iterator[tuple[float, str]]:
        """Yield the screen after each chunk of output, with its time."""
        screen = pyte.Screen(COLUMNS, LINES)
        stream = pyte.ByteStream(screen)
        for at, piece in self._drawn:
            stream.feed(NOT_FOR_PYTE.sub(b"", piece))
            yield at, "\n".join(screen.display)

    def last_screen(self) -> str:
        """Return the current text of the screen."""
        return next(reversed([shown for _, shown in self.screens()]), "")

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._process.child_fd, 65536)
                for question, answer in ANSWERS.items():
                    if question in piece:
                        self._process.send(answer)
            except OSError:  # the program ended
                return
            self._drawn.append((time.perf_counter(), piece))


def latencies(
    terminal: Terminal, counts: Callable[[str], bool] = lambda shown: True
) -> list[float]:
    """Return the seconds from each key to the screen that shows it; omit keys never shown.

    Args:
        terminal: a run that has ended.
        counts: whether a key that is seen on this screen is one to count.
    """
    waiting = list(terminal.keys)
    found: list[float] = []
    for at, shown in terminal.screens():
        pressed = [key for key in waiting if key.at <= at]
        seen = [key for key in pressed if key.shows in shown]
        if seen:
            found += [at - key.at for key in seen if counts(shown)]
            del waiting[: pressed.index(seen[-1]) + 1]
    return found


def first_shown(terminal: Terminal, condition: Callable[[str], object]) -> float:
    """Return the seconds from the start until a screen met the condition.

    Raises:
        TimeoutError: it never was.
    """
    for at, shown in terminal.screens():
        if condition(shown):
            return at - terminal.started
    raise TimeoutError("the screen was never so")
