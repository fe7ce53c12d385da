"""Which of torch's threads take part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """Run torch in this thread alone, where waking others takes longer than what they would do.

    Threads that wait for the next operation would also take the processors from the kernel's own.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
