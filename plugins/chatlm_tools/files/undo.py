"""What files were before tools changed them, so that each change can be undone."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from chatlm import write_atomically

_KEPT = 200
"""Changes that are remembered; the oldest are forgotten."""
_FOLDER = "file_changes"

_in_memory: list[Change] = []
"""Changes of incognito chats, which leave nothing on disk."""
_lock = threading.Lock()


@dataclass(frozen=True)
class Change:
    """One change of a file."""

    path: str
    before: str | None
    """None where there was no file."""
    after_digest: str
    """SHA-256 of what the tool wrote."""


def digest(text: str | None) -> str:
    """Return what tells one content from another; empty for no file."""
    return "" if text is None else hashlib.sha256(text.encode()).hexdigest()


def remember(data_folder: Path, change: Change, *, incognito: bool) -> None:
    """Store what a file was; call it before the file is changed."""
    with _lock:
        if incognito:
            _in_memory.append(change)
            del _in_memory[:-_KEPT]
            return
        files = _files(data_folder)
        number = int(files[-1].stem) + 1 if files else 1
        path = data_folder / _FOLDER / f"{number:08}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(change)))
        for old in files[: -_KEPT + 1]:
            old.unlink(missing_ok=True)


def last_change(data_folder: Path, path: str, *, incognito: bool) -> Change | None:
    """Return the last change of a file; None if it is not known."""
    with _lock:
        if incognito:
            return next((each for each in reversed(_in_memory) if each.path == path), None)
        found = _find(data_folder, path)
        return found[1] if found else None


def forget(data_folder: Path, change: Change, *, incognito: bool) -> None:
    """Forget a change that was undone."""
    with _lock:
        if incognito:
            if change in _in_memory:
                _in_memory.remove(change)
        elif (found := _find(data_folder, change.path)) and found[1] == change:
            found[0].unlink(missing_ok=True)


def _files(data_folder: Path) -> list[Path]:
    return sorted((data_folder / _FOLDER).glob("*.json"))


def _find(data_folder: Path, path: str) -> tuple[Path, Change] | None:
    for file in reversed(_files(data_folder)):
        try:
            change = Change(**json.loads(file.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            continue  # damaged: older changes may still be whole
        if change.path == path:
            return file, change
    return None
