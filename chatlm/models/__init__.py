"""The models chatlm can use: find, fetch, convert, verify, list and remove them."""

from __future__ import annotations

from chatlm.models.local import (
    ModelDetails,
    ModelLocation,
    find,
    installed,
    is_here,
    known,
    remove,
    show,
    verify,
)
from chatlm.models.progress import Cancelled, Progress, PullCancelled, Stage
from chatlm.models.pull import ensure, pull
from chatlm.models.target import installed_names, known_names

ensure_model = ensure
"""`ensure`, by its public name."""
find_model = find
"""`find`, by its public name."""

__all__ = [
    "Cancelled",
    "ModelDetails",
    "ModelLocation",
    "Progress",
    "PullCancelled",
    "Stage",
    "ensure",
    "ensure_model",
    "find",
    "find_model",
    "installed",
    "installed_names",
    "is_here",
    "known",
    "known_names",
    "pull",
    "remove",
    "show",
    "verify",
]
