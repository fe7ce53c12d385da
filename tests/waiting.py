"""Waiting for a state instead of a time, so that no test depends on how fast a machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0
"""Seconds after which a state counts as never reached; far more than any machine needs."""


def wait_until(reached: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return as soon as the state is reached; fail if it never is."""
    deadline = time.monotonic() + patience
    while not reached():
        assert time.monotonic() < deadline, "this state never came"
        time.sleep(0.01)
