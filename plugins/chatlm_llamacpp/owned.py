"""What llama.cpp allocated, freed in the right order."""

from __future__ import annotations

import weakref
from typing import Any


class Owned:
    """Something of llama.cpp's, freed with its last reference.

    Args:
        pointer: as llama.cpp returned it.
        free: frees it.
        after: what must be freed later than it.
    """

    def __init__(self, pointer: Any, free: Any, *after: object) -> None:
        self.pointer = pointer
        self._after = after
        self.free = weakref.finalize(self, free, pointer)
