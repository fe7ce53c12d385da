"""How much one piece of work costs beside another, so that no test depends on a machine's speed."""

from __future__ import annotations

import time
from collections.abc import Callable


def processor_seconds(work: Callable[[], object], times: int = 3) -> float:
    """What the work takes of the processor at its best; waiting for others does not count."""
    costs = []
    for _ in range(times):
        began = time.process_time()
        work()
        costs.append(time.process_time() - began)
    return min(costs)


def step_seconds() -> float:
    """What one turn of an empty loop takes of the processor, as a measure of this machine."""
    count = 1_000_000

    def loop() -> None:
        for _ in range(count):
            pass

    return processor_seconds(loop) / count
