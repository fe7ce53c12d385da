"""Pages and search results that were read lately."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatlm import write_atomically

_MAX_FILES = 500
_FOLDER = "web_cache"


class WebCache:
    """Answers by address, in files.

    Args:
        data_folder: of the plugin.
        hours: how long an answer is used; 0 keeps nothing.
    """

    def __init__(self, data_folder: Path, hours: float) -> None:
        self._folder = data_folder / _FOLDER
        self._seconds = hours * 3600

    def get(self, kind: str, address: str) -> Mapping[str, Any] | None:
        """Return an answer; None if there is none, or it is too old or damaged."""
        if not self._seconds:
            return None
        path = self._path(kind, address)
        try:
            age = time.time() - path.stat().st_mtime
            values = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return values if 0 <= age <= self._seconds and isinstance(values, dict) else None

    def put(self, kind: str, address: str, values: Mapping[str, Any]) -> None:
        """Keep an answer; the oldest ones make room."""
        if not self._seconds:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(kind, address), json.dumps(dict(values)))
        files = [(path.stat().st_mtime, path) for path in self._folder.glob("*.json")]
        for _, path in sorted(files)[:-_MAX_FILES]:
            path.unlink(missing_ok=True)

    def _path(self, kind: str, address: str) -> Path:
        name = hashlib.sha256(f"{kind} {address}".encode()).hexdigest()[:40]
        return self._folder / f"{name}.json"
