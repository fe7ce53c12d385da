"""What models take on the disk, and what interrupted downloads left there."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from chatlm.config import paths
from chatlm.hub.disk import freed_bytes, tree_bytes
from chatlm.hub.names import installed_manifests
from chatlm.hub.staging import delete_leftovers, leftovers


@dataclass(frozen=True)
class DiskUse:
    """One model's folder, or what a download left."""

    name: str
    bytes: int
    freed: int
    """Bytes that deleting it gives back."""
    is_leftover: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "name": self.name,
            "bytes": self.bytes,
            "freed": self.freed,
            "leftover": self.is_leftover,
        }


def disk_usage() -> list[DiskUse]:
    """List the installed models, largest first, then what interrupted downloads left."""
    models = [
        DiskUse(manifest.name, manifest.bytes, freed_bytes(folder))
        for folder, manifest in installed_manifests()
    ]
    left = [
        DiskUse(f"an interrupted download of {name}", size, size, is_leftover=True)
        for name, folder in leftovers()
        if (size := tree_bytes(folder))
    ]
    return [*sorted(models, key=lambda each: each.bytes, reverse=True), *left]


def free_bytes() -> int:
    """Return what is free on the disk of the models."""
    folder = paths.models_dir()
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def clean() -> int:
    """Delete what interrupted downloads left, unless one goes on now.

    Returns:
        The number of freed bytes.
    """
    freed = 0
    for _, folder in leftovers():
        with contextlib.suppress(Timeout):
            freed += delete_leftovers(Path(folder))
    return freed
