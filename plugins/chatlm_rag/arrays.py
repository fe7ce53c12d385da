"""Opens arrays of numbers in files, without reading them and without pickle."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

opening = Lock()
"""numpy reads a file's head by `ast`, and two threads at once make Python 3.11 fail in that with
"AST constructor recursion depth mismatch"."""


def mapped(path: Path) -> np.memmap[Any, Any]:
    """The array of a `.npy` file; stays readable when the file is replaced.

    Raises:
        OSError, ValueError: it cannot be read, or is no such file.
    """
    import numpy as np

    with opening:
        array: np.memmap[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
