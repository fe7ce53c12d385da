"""Whether the computer's memory likely holds one more model; loads none."""

from __future__ import annotations

import re
from pathlib import Path

from chatlm.errors import ModelError
from chatlm.models.local import find

MEMORY = Path("/proc/meminfo")
"""What Linux says about its memory; other systems have no such file."""

SHARE = 0.9
"""Part of the free memory that may be filled."""


def has_room(model: str) -> bool:
    """Whether the weights of a model fit into what is free now; True where that is not known.

    Args:
        model: its name, as a person gives it.
    """
    try:
        weights = sum(path.stat().st_size for path in find(model).folder.glob("*.safetensors"))
        told = re.search(r"^MemAvailable:\s+(\d+) kB", MEMORY.read_text("ascii"), re.MULTILINE)
    except (ModelError, OSError, ValueError):
        return True
    return told is None or weights <= SHARE * 1024 * int(told.group(1))
