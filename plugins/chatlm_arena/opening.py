"""`chatlm arena` without a command: the chat's screen, with the arena open over it."""

from __future__ import annotations

import sys

from chatlm import UsageError, load_config, run_ui

_wanted: list[bool] = []
"""Not empty where the arena shall open as soon as the screen is there."""


def open_screen() -> None:
    """Open the terminal UI in the arena, and return when the person quits.

    Raises:
        UsageError: there is no terminal.
        StoreError: the arena cannot be opened.
    """
    from chatlm_arena import keeping

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "The arena needs a terminal.",
            hint="In a pipe or script: chatlm arena leaderboard, chatlm arena run",
        )
    keeping.check()
    _wanted.append(True)
    run_ui(load_config())


def take_wish() -> bool:
    """Whether the arena shall open now; asked again, it says no."""
    return bool(_wanted and _wanted.pop())
