"""Which of torch's threads take part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_usual = 1
"""How many threads torch had when one with several entered `single_torch_thread` last."""


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """Run torch in this thread alone, where waking others takes longer than what they would do.

    Threads that wait for the next operation would also take the processors from the kernel's own.
    """
    global _usual  # noqa: PLW0603
    threads = torch.get_num_threads()
    if threads > 1:
        _usual = threads
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def usual_torch_threads() -> int:
    """Return how many threads torch has outside `single_torch_thread`.

    A thread that begins while another one is inside has only one.
    """
    return max(torch.get_num_threads(), _usual)
