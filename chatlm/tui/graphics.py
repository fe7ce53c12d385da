"""How the terminal draws images, found out before the screen takes it over."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

Graphics = Literal["kitty", "sixel", "blocks", "text"]
"""Kitty's graphics protocol, Sixel, half blocks of text in true colour, or a line of text alone."""

QUERY_SECONDS = 0.15
"""How long a terminal may take to answer; terminals answer within milliseconds."""

_QUERY = "\x1b[c"
"""Asks for the terminal's attributes, which all answer. Kitty's protocol is not asked for: only
terminals known by name have its placeholders in text, and others would print the question."""

_PROGRAMS: Mapping[str, Graphics] = {
    "ghostty": "kitty",
    "WezTerm": "sixel",  # it knows Kitty's protocol, but not its placeholders in text
    "iTerm.app": "sixel",
    "Apple_Terminal": "blocks",
}
"""Values of TERM_PROGRAM -> what these terminals draw."""

_KINDS: Mapping[str, Graphics] = {
    "xterm-kitty": "kitty",
    "xterm-ghostty": "kitty",
    "foot": "sixel",
    "foot-extra": "sixel",
    "mlterm": "sixel",
    "xterm": "text",  # without `-256color`: too few colours
    "linux": "text",
    "dumb": "text",
    "": "text",
}
"""Values of TERM -> what these terminals draw."""

_import_lock = threading.Lock()


def detect_graphics(setting: str, environment: Mapping[str, str] | None = None) -> Graphics:
    """Return how images are drawn; call it before the screen is opened.

    Args:
        setting: the user's setting `images`; `auto` asks the terminal where its name does not say.
        environment: variables; those of the process by default.
    """
    env = os.environ if environment is None else environment
    if setting in ("kitty", "sixel", "blocks", "text"):
        return setting  # type: ignore[return-value]  # one of its values
    if env.get("TEXTUAL_DRIVER"):
        return "blocks"  # the browser
    if not (_is_terminal(sys.__stdin__) and _is_terminal(sys.__stdout__)):
        return "text"
    if env.get("SSH_CONNECTION") or env.get("SSH_TTY"):
        return "text"  # the link may be slow
    known = _PROGRAMS.get(env.get("TERM_PROGRAM", "")) or _KINDS.get(env.get("TERM", ""))
    if known is None and env.get("TMUX"):
        known = "blocks"  # it says that it draws Sixel whether or not the terminal around it does
    if known is None and (env.get("KITTY_WINDOW_ID") or env.get("GHOSTTY_RESOURCES_DIR")):
        known = "kitty"
    return known or graphics_of_answer(_ask_terminal())


def graphics_of_answer(answer: str) -> Graphics:
    """Return what a terminal draws by its answer to the query.

    Args:
        answer: such as `\\x1b[?62;4c`, in which 4 stands for Sixel; empty for none.
    """
    attributes = answer.removeprefix("\x1b[?").removesuffix("c").split(";")
    return "sixel" if "4" in attributes[1:] else "blocks"


def _is_terminal(stream: object) -> bool:
    try:
        return bool(stream and stream.isatty())  # type: ignore[attr-defined]
    except (OSError, ValueError):  # closed
        return False


def _ask_terminal() -> str:
    """Ask the terminal what it draws; empty where it does not answer, or the user is typing."""
    if sys.platform == "win32" or sys.__stdin__ is None or sys.__stdout__ is None:
        return ""
    import select
    import termios
    import tty

    source = sys.__stdin__.fileno()
    if select.select([source], [], [], 0)[0]:
        return ""  # what was typed early must not be lost
    try:
        before = termios.tcgetattr(source)
    except termios.error:
        return ""
    answer, deadline = b"", time.monotonic() + QUERY_SECONDS
    try:
        tty.setcbreak(source, termios.TCSANOW)
        sys.__stdout__.write(_QUERY)
        sys.__stdout__.flush()
        while not answer.endswith(b"c"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                break
            answer += os.read(source, 1)
            if not answer.startswith(b"\x1b"):
                break
    except OSError:
        return ""
    finally:
        termios.tcsetattr(source, termios.TCSANOW, before)
    return answer.decode("latin-1")


def cell_pixels() -> tuple[int, int]:
    """Return the width and height of a cell of the terminal in pixels, as it says or usual ones."""
    try:
        import fcntl
        import struct
        import termios

        assert sys.__stdout__ is not None  # noqa: S101 - for the type checker
        packed = fcntl.ioctl(sys.__stdout__.fileno(), termios.TIOCGWINSZ, bytes(8))
        rows, columns, width, height = struct.unpack("HHHH", packed)
        if min(rows, columns, width, height) > 0:
            return width // columns, height // rows
    except (ImportError, OSError, ValueError, AssertionError):
        pass
    return 10, 20


def load_library() -> None:
    """Import textual-image in a running app, where it must not ask the terminal anything.

    It would write to the terminal and read the answer, which are Textual's by now; so it sees no
    terminal, and gets the size of a cell by the variables it reads for that.
    """
    with _import_lock, _without_terminal():
        import textual_image.widget  # noqa: F401


@contextlib.contextmanager
def _without_terminal() -> Iterator[None]:
    if "textual_image.widget" in sys.modules:
        yield
        return
    width, height = cell_pixels()
    stdout = sys.__stdout__
    names = {"TEXTUAL_CELL_WIDTH": str(width), "TEXTUAL_CELL_HEIGHT": str(height)}
    added = {name: value for name, value in names.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with Path(os.devnull).open("w") as nothing:
            sys.__stdout__ = nothing  # type: ignore[misc]
            yield
    finally:
        sys.__stdout__ = stdout  # type: ignore[misc]
        for name in added:
            del os.environ[name]
