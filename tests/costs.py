"""Relative costs of work, so that no test depends on a machine's speed."""

from __future__ import annotations

import time
from collections.abc import Callable


def processor_seconds(work: Callable[[], object], times: int = 3) -> float:
    """Return the least CPU time of several runs; time spent waiting does not count."""
    costs = []
    for _ in range(times):
        began = time.process_time()
        work()
        costs.append(time.process_time() - began)
    return min(costs)


def step_seconds() -> float:
    """Return the CPU time of one iteration of an empty loop, as a measure of this machine."""
    count = 1_000_000

    def loop() -> None:
        for _ in range(count):
            pass

    return processor_seconds(loop) / count
