"""Copy to the terminal's and the system's clipboard; keep escape sequences out of pastes.

Textual's own parser takes an escape sequence inside a paste for keys that were pressed: a text that
someone copied could send itself, or quit.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator

from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.app import App
from textual.events import Paste
from textual.message import Message

from chatlm.tui.formatting import count

log = logging.getLogger(__name__)


TOOL_TIMEOUT_SECONDS = 3.0
"""Timeout of a clipboard tool, which may hang without a display."""


_SURROGATES = re.compile("[\ud800-\udfff]")


def copy(app: App[object], text: str, label: str) -> None:
    """Copy a text unchanged and confirm it in a toast.

    The terminal gets it as OSC 52, in base64, so no character of it can act there; this works over
    ssh too. Terminals may refuse without a word, so the system's own tools get it as well.

    Args:
        app: the running app.
        text: the original text, not its rendering.
        label: names it in the toast, such as `the reply`.
    """
    text = _SURROGATES.sub("\ufffd", text)  # half a character has no bytes
    app.copy_to_clipboard(text)
    if not app.is_headless:
        threading.Thread(
            target=copy_with_system_tools, args=(text,), name="chatlm-copy", daemon=True
        ).start()
    app.notify(f"Copied {label}, {count(len(text), 'character')}", markup=False)


def copy_with_system_tools(text: str) -> None:
    """Pass the text to every clipboard tool and wait; failures are only logged."""
    encoding = "utf-16-le" if sys.platform == "win32" else "utf-8"
    for command in clipboard_commands():
        try:
            subprocess.run(
                command,
                input=text.encode(encoding),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=TOOL_TIMEOUT_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            log.info("%s did not take the copied text: %s", command[0], error)


def clipboard_commands() -> Iterator[list[str]]:
    """Yield the commands of the available clipboards; all read standard input."""
    if os.environ.get("TMUX"):
        yield from _first_installed(["tmux", "load-buffer", "-w", "-"])
    if sys.platform == "darwin":
        yield from _first_installed(["pbcopy"])
    elif sys.platform == "win32":
        yield from _first_installed(["clip"])
    elif os.environ.get("WAYLAND_DISPLAY"):
        yield from _first_installed(["wl-copy"])
    elif os.environ.get("DISPLAY"):
        yield from _first_installed(
            ["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"]
        )


def _first_installed(*commands: list[str]) -> list[list[str]]:
    """Return the first installed command."""
    return [command for command in commands if shutil.which(command[0])][:1]


PASTE_START, PASTE_END = BRACKETED_PASTE_START, BRACKETED_PASTE_END


ESCAPE = "\x1b"


ESCAPE_PLACEHOLDER = "\ufdd2"
"""Replaces an escape on its way through the parser; a Unicode noncharacter."""


class PasteParser(XTermParser):
    """Textual's parser with escape sequences in pastes kept as text."""

    def __init__(self, debug: bool = False) -> None:
        super().__init__(debug)
        self._in_paste = False
        self._possible_paste_start = ""
        """The last characters outside a paste, which may be a prefix of `START`."""
        self._possible_paste_end = ""
        """The last characters of a paste, which may be a prefix of `END`."""

    def feed(self, data: str) -> Iterable[Message]:
        """Feed input; an empty string ends it."""
        passed = self._hide_escapes(data)
        if passed or not data:
            for message in super().feed(passed):
                if isinstance(message, Paste):
                    yield Paste(message.text.replace(ESCAPE_PLACEHOLDER, ESCAPE))
                else:
                    yield message

    def _hide_escapes(self, data: str) -> str:
        """Replace escapes inside pastes; hold back a possible end marker."""
        data, self._possible_paste_end = self._possible_paste_end + data, ""
        passed = []
        while data:
            if self._in_paste:
                end = data.find(PASTE_END)
                if end < 0:
                    end = len(data) - _partial_marker_length(data, PASTE_END)
                    data, self._possible_paste_end = data[:end], data[end:]
                pasted, data = data[:end], data[end:]
                passed.append(
                    pasted.replace(ESCAPE_PLACEHOLDER, "\ufffd").replace(ESCAPE, ESCAPE_PLACEHOLDER)
                )
                if data:
                    self._in_paste, data = False, data[len(PASTE_END) :]
                    passed.append(PASTE_END)
            else:
                seen = self._possible_paste_start + data
                at = seen.find(PASTE_START)
                self._in_paste = at >= 0
                end = (
                    at + len(PASTE_START) - len(self._possible_paste_start)
                    if self._in_paste
                    else len(data)
                )
                self._possible_paste_start = "" if self._in_paste else seen[1 - len(PASTE_START) :]
                passed.append(data[:end])
                data = data[end:]
        return "".join(passed)


def _partial_marker_length(data: str, marker: str) -> int:
    """Return how many trailing characters may be a prefix of the marker."""
    return next(n for n in range(len(marker) - 1, -1, -1) if data.endswith(marker[:n]))


def install_paste_parser() -> None:
    """Install the parser for the terminal's input."""
    if sys.platform == "win32":
        from textual.drivers import win32 as driver
    else:
        from textual.drivers import linux_driver as driver
    driver.XTermParser = PasteParser  # type: ignore[attr-defined]
