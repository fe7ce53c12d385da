"""The whole program in a real terminal: keys are typed, and the screen is read back."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pexpect
import pyte

from tests.program import ProgramInTerminal
from tests.waiting import PATIENCE

CTRL_C, CTRL_G, CTRL_L, CTRL_Q, ESCAPE, ENTER = "\x03", "\x07", "\x0c", "\x11", "\x1b", "\r"
CTRL_R, CTRL_S, CTRL_T, CTRL_N, TAB = "\x12", "\x13", "\x14", "\x0e", "\t"
LEFT, RIGHT, UP = "\x1b[D", "\x1b[C", "\x1b[A"

KEYBOARD_MODES = re.compile(rb"\x1b\[[<>=?][0-9;]*[a-z]")
"""Private sequences that pyte would print as text."""

GRAPHICS = re.compile(rb"\x1b[P_].*?\x1b\\", re.DOTALL)
"""Images by Sixel and by Kitty's protocol, likewise."""


class Terminal:
    """chatlm in a pseudo-terminal, and its screen.

    A fork of a process in which slow imports are done, unless it is to be `fresh`. The user is no
    newcomer, who would be asked which model to download, unless `newcomer` says so.

    Args:
        home: chatlm's folder; None for those below HOME.
        environment: more variables.
        attributes: what the terminal answers when it is asked for its attributes; nothing if empty.
    """

    def __init__(
        self,
        home: Path | None,
        *arguments: str,
        columns: int = 110,
        lines: int = 30,
        folder: Path | None = None,
        fresh: bool = False,
        newcomer: bool = False,
        environment: Mapping[str, str] | None = None,
        attributes: str = "",
    ) -> None:
        if home is not None and not newcomer:
            home.mkdir(parents=True, exist_ok=True)
            (home / "first-start.json").write_text('{"format": 1, "choice": ""}')
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        added, environment = environment or {}, {**os.environ, "CHATLM_HOME": str(home or "")}
        environment |= {"TERM": "xterm-256color", "PYTHONFAULTHANDLER": "1", **added}
        self.drawn = b""
        """All that the program wrote."""
        self._attributes = attributes
        for size in ("COLUMNS", "LINES"):  # they would go before the terminal's own
            environment.pop(size, None)
        self.process: ProgramInTerminal | pexpect.spawn
        if fresh:
            self.process = pexpect.spawn(
                sys.executable,
                ["-m", "chatlm", *arguments],
                env=environment,
                cwd=folder,
                dimensions=(lines, columns),
                timeout=None,
            )
        else:
            self.process = ProgramInTerminal(
                *arguments, environment=environment, folder=folder, dimensions=(lines, columns)
            )

    def type(self, text: str) -> None:
        self.process.send(text)

    def shown(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait_for(self, condition: Callable[[str], object]) -> str:
        """Read the program's output until `condition` holds for the screen's text."""
        deadline = time.monotonic() + PATIENCE
        while not condition(self.shown()):
            assert time.monotonic() < deadline, f"this never came; the screen:\n{self.shown()}"
            try:
                drawn = self.process.read_nonblocking(65536, timeout=0.1)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                raise AssertionError(f"chatlm ended; the screen:\n{self.shown()}") from None
            self.drawn += drawn
            if self._attributes and b"\x1b[c" in self.drawn:
                self.type(self._attributes)
                self._attributes = ""
            self._stream.feed(GRAPHICS.sub(b"", KEYBOARD_MODES.sub(b"", drawn)))
        return self.shown()

    def wait_to_end(self) -> int | None:
        """Read to the end of the program; its exit code, None if a signal ended it."""
        self.process.expect(pexpect.EOF, timeout=PATIENCE)
        self.process.wait()
        code = self.process.exitstatus
        if code is None:  # shown by a test that fails
            print(f"ended by signal {self.process.signalstatus}:\n{self.process.before!r}")
            return None
        return int(code)


def has(*texts: str) -> Callable[[str], bool]:
    return lambda shown: all(text in shown for text in texts)


def has_after(heading: str, *texts: str) -> Callable[[str], bool]:
    """Like `has`, but what is above a heading does not count; all counts once it scrolled away."""
    return lambda shown: has(*texts)(shown.rpartition(heading)[2])


def tokens(shown: str) -> int:
    """Return the number of tokens from the line below the reply."""
    found = re.search(r"(\d+) tokens?\b", shown)
    return int(found.group(1)) if found else 0
