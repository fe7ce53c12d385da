"""Reads what is pasted into the terminal as it is; knows no widget.

Textual's own parser takes an escape sequence inside a paste for keys that were pressed: a text that
someone copied could send itself, or quit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.events import Paste
from textual.message import Message

START, END = BRACKETED_PASTE_START, BRACKETED_PASTE_END
ESCAPE = "\x1b"
STAND_IN = "\ufdd2"
"""For an escape on its way through the parser. Unicode keeps it for a program's inner use."""


class PasteParser(XTermParser):
    """Lets no escape of a paste be seen before the paste is whole."""

    def __init__(self, debug: bool = False) -> None:
        super().__init__(debug)
        self._pasting = False
        self._before = ""
        """The last characters outside a paste, which may begin `START`."""
        self._held = ""
        """The last characters of a paste, which may begin `END`."""

    def feed(self, data: str) -> Iterable[Message]:
        """See `XTermParser.feed`; nothing at all ends it."""
        passed = self._disarmed(data)
        if passed or not data:
            for message in super().feed(passed):
                if isinstance(message, Paste):
                    yield Paste(message.text.replace(STAND_IN, ESCAPE))
                else:
                    yield message

    def _disarmed(self, data: str) -> str:
        """The data with a stand-in for each escape inside a paste; what may end one waits."""
        data, self._held = self._held + data, ""
        passed = []
        while data:
            if self._pasting:
                end = data.find(END)
                if end < 0:
                    end = len(data) - _begun(data, END)
                    data, self._held = data[:end], data[end:]
                pasted, data = data[:end], data[end:]
                passed.append(pasted.replace(STAND_IN, "\ufffd").replace(ESCAPE, STAND_IN))
                if data:
                    self._pasting, data = False, data[len(END) :]
                    passed.append(END)
            else:
                seen = self._before + data
                at = seen.find(START)
                self._pasting = at >= 0
                end = at + len(START) - len(self._before) if self._pasting else len(data)
                self._before = "" if self._pasting else seen[1 - len(START) :]
                passed.append(data[:end])
                data = data[end:]
        return "".join(passed)


def _begun(data: str, marker: str) -> int:
    """How many characters at the end of the data may be the beginning of the marker."""
    return next(n for n in range(len(marker) - 1, -1, -1) if data.endswith(marker[:n]))


def install() -> None:
    """Let the terminal's input be read so."""
    if sys.platform == "win32":
        from textual.drivers import win32 as driver
    else:
        from textual.drivers import linux_driver as driver
    driver.XTermParser = PasteParser  # type: ignore[attr-defined]
