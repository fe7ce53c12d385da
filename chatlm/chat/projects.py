"""Projects: read a folder's instructions, and remember what the user confirmed and saved for it.

A folder may come from a stranger, so its `AGENTS.md` is followed only after the user has seen it;
the digest of a confirmed text is stored, and a changed one is shown again. Everything else that a
project sets is what the user saved for it, in chatlm's own data folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chatlm.config import paths
from chatlm.errors import ChatlmError, UsageError
from chatlm.text import one_line
from chatlm.types.projects import INSTRUCTIONS_FILE, Project
from chatlm.types.replies import utc_now
from chatlm.types.setups import Setup

log = logging.getLogger(__name__)

MAX_INSTRUCTIONS = 64_000
"""Bytes of the longest instructions; more would leave little of a small model's context."""

_FORMAT = 1

Status = Literal["none", "confirmed", "new", "changed"]
"""Whether there are instructions, and whether the user confirmed them as they are now."""


@dataclass(frozen=True)
class FoundProject:
    """A folder as it is now."""

    folder: Path
    """Absolute, without symbolic links."""
    instructions: str
    """Text of its `AGENTS.md`; empty for none."""
    status: Status
    setup: Setup
    """What the user saved for its new chats."""

    def project(self, *, with_instructions: bool = True) -> Project:
        """Return what is stored with a chat."""
        return Project(str(self.folder), self.instructions if with_instructions else "")


def find_project(path: str) -> FoundProject:
    """Read a project.

    Args:
        path: the folder, absolute or relative to the current one, with `~` for the home.

    Raises:
        UsageError: it is no folder, or its instructions cannot be read.
    """
    try:
        folder = paths.expand_path(path).resolve()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError):
        is_folder = False
    if not is_folder:
        raise UsageError(
            f"There is no folder {one_line(path, 80)}",
            hint="A project is a folder: /project PATH, or chatlm --project PATH.",
        )
    instructions = _read_instructions(folder / INSTRUCTIONS_FILE)
    known = _load().get(str(folder), {})
    status: Status = "none"
    if instructions:
        digest = known.get("instructions")
        status = "confirmed" if digest == _digest(instructions) else "changed" if digest else "new"
    return FoundProject(folder, instructions, status, _setup(known))


def has_instructions(folder: Path) -> bool:
    """Tell whether a folder has instructions."""
    try:
        return (folder / INSTRUCTIONS_FILE).is_file()
    except OSError:
        return False


def remember_use(found: FoundProject, *, confirmed: bool) -> None:
    """Store that a project was opened, and that the user confirmed its instructions.

    Raises:
        UsageError: it cannot be written.
    """
    values: dict[str, Any] = {"used": utc_now().isoformat()}
    if confirmed:
        values["instructions"] = _digest(found.instructions)
    _update(str(found.folder), values)


def save_setup(folder: str, setup: Setup) -> None:
    """Store what new chats of a project begin with.

    Raises:
        UsageError: it cannot be written.
    """
    _update(folder, {"setup": setup.to_dict()})


def known_projects() -> list[str]:
    """Return the folders that were opened, the last one first."""
    known = _load()
    return sorted(known, key=lambda folder: str(known[folder].get("used", "")), reverse=True)


def _read_instructions(file: Path) -> str:
    try:
        paths.check_regular_file(file)
        with file.open("rb") as stream:
            content = stream.read(MAX_INSTRUCTIONS + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror or error}",
            hint="Mend or remove it; without it a project has no instructions.",
        ) from error
    if len(content) > MAX_INSTRUCTIONS:
        raise UsageError(
            f"{file} is longer than {MAX_INSTRUCTIONS:,} bytes",
            hint="Shorten it: every message of the chat carries all of it.",
        )
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text", hint="Save it as UTF-8.") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file() -> Path:
    return paths.data_dir() / "projects.json"


def _load() -> dict[str, dict[str, Any]]:
    """Return what is stored of each folder; nothing if it is damaged, so that all is asked anew."""
    try:
        values = json.loads(_file().read_bytes())
        projects = values["projects"]
        return {str(folder): dict(known) for folder, known in projects.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        log.warning("projects.json is not read: %s", error)
        return {}


def _setup(known: dict[str, Any]) -> Setup:
    try:
        return Setup.from_dict(known.get("setup", {}))
    except (ChatlmError, TypeError, AttributeError) as error:
        log.warning("a project's set-up is not read: %s", error)
        return Setup()


def _update(folder: str, values: dict[str, Any]) -> None:
    projects = _load()
    projects[folder] = {**projects.get(folder, {}), **values}
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": _FORMAT, "projects": projects}, indent=1)
        paths.write_atomically(_file(), [text])
    except OSError as error:
        raise UsageError(
            f"The project is not remembered: {error.strerror or error}",
            hint=f"Check the free space and the permissions of {_file().parent}.",
        ) from error
