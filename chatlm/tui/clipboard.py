"""Copies a text to where people paste from: the terminal's clipboard and the system's."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator

from textual.app import App

from chatlm.tui.labels import count

log = logging.getLogger(__name__)

TOOL_SECONDS = 3.0
"""How long a clipboard tool may take; one that cannot reach its display may hang."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def copy(app: App[object], text: str, what: str) -> None:
    """Copy the text as it is and say so.

    The terminal gets it as OSC 52, in base64, so no character of it can act there; this works over
    ssh too. Terminals may refuse without a word, so the system's own tools get it as well.

    Args:
        app: the program on the screen.
        text: the original, not what is drawn of it.
        what: names it in the toast, such as `the reply`.
    """
    text = _SURROGATES.sub("\ufffd", text)  # half a character has no bytes
    app.copy_to_clipboard(text)
    if not app.is_headless:
        threading.Thread(target=hand_over, args=(text,), name="chatlm-copy", daemon=True).start()
    app.notify(f"Copied {what}, {count(len(text), 'character')}", markup=False)


def hand_over(text: str) -> None:
    """Give the text to every clipboard tool of this machine; waits for them, and fails quietly."""
    encoding = "utf-16-le" if sys.platform == "win32" else "utf-8"
    for command in tools():
        try:
            subprocess.run(
                command,
                input=text.encode(encoding),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=TOOL_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            log.info("%s did not take the copied text: %s", command[0], error)


def tools() -> Iterator[list[str]]:
    """The commands that take a text for the clipboards there are; all read standard input."""
    if os.environ.get("TMUX"):
        yield from _first(["tmux", "load-buffer", "-w", "-"])
    if sys.platform == "darwin":
        yield from _first(["pbcopy"])
    elif sys.platform == "win32":
        yield from _first(["clip"])
    elif os.environ.get("WAYLAND_DISPLAY"):
        yield from _first(["wl-copy"])
    elif os.environ.get("DISPLAY"):
        yield from _first(["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"])


def _first(*commands: list[str]) -> list[list[str]]:
    """The first of the commands that is installed."""
    return [command for command in commands if shutil.which(command[0])][:1]
