"""The record in a model's folder of what it is and what its files must be; no fetching."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from chatlm.errors import ModelError
from chatlm.models.catalogue import Kind
from chatlm.models.disk import sha256
from chatlm.models.progress import Cancelled, Progress, check_cancelled, never, silent

FILE = "chatlm-model.json"
_FORMAT = 1


@dataclass(frozen=True)
class FileRecord:
    """What a file was when the model was pulled."""

    bytes: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "bytes": self.bytes,
            "sha256": self.sha256,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileRecord:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            bytes=values["bytes"],
            sha256=values["sha256"],
        )


@dataclass(frozen=True)
class Origin:
    """Where a model came from."""

    type: str
    """hub, wheel or gguf."""
    where: str
    """For people: the repository, package or path."""
    revision: str = ""
    """The hub's commit, the package's version or the GGUF file's SHA-256."""
    stamp: str = ""
    """Size and time of a GGUF file, to know it again without hashing it."""

    def __str__(self) -> str:
        match self.type:
            case "hub":
                return f"hub {self.where}@{self.revision[:8]}"
            case "wheel":
                return f"package {self.where} {self.revision}"
            case _:
                return f"{self.type} {self.where}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "type": self.type,
            "where": self.where,
            "revision": self.revision,
            "stamp": self.stamp,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Origin:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            type=values["type"],
            where=values["where"],
            revision=values.get("revision", ""),
            stamp=values.get("stamp", ""),
        )


@dataclass(frozen=True)
class Manifest:
    """One model that was pulled."""

    name: str
    kind: Kind
    origin: Origin
    pulled_at: str
    """ISO 8601, UTC."""
    files: dict[str, FileRecord]
    """By path inside the folder, with forward slashes."""

    @property
    def bytes(self) -> int:
        """What the model takes on disk."""
        return sum(record.bytes for record in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "origin": self.origin.to_dict(),
            "pulled_at": self.pulled_at,
            "files": {path: record.to_dict() for path, record in self.files.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError, AttributeError: it is something else.
        """
        return cls(
            name=values["name"],
            kind=values["kind"],
            origin=Origin.from_dict(values["origin"]),
            pulled_at=values["pulled_at"],
            files={path: FileRecord.from_dict(record) for path, record in values["files"].items()},
        )


def model_files(folder: Path) -> list[Path]:
    """The model's files below a folder, sorted, the manifest left out."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / FILE)


def write_manifest(
    folder: Path,
    name: str,
    kind: Kind,
    origin: Origin,
    progress: Progress = silent,
    cancelled: Cancelled = never,
) -> Manifest:
    """Hash every file of a finished folder and write its manifest, the last file of a pull."""
    paths = model_files(folder)
    total = sum(path.stat().st_size for path in paths)
    files: dict[str, FileRecord] = {}
    done = 0
    for path in paths:
        check_cancelled(cancelled)
        progress("check", done, total)
        size = path.stat().st_size
        files[path.relative_to(folder).as_posix()] = FileRecord(size, sha256(path))
        done += size
    progress("check", done, total)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(name, kind, origin, now, files)
    text = json.dumps({"format": _FORMAT, **manifest.to_dict()}, indent=2)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a pulled model, None when the folder has none.

    Raises:
        ModelError: the file cannot be understood.
    """
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        table = json.loads(text)
        if table["format"] != _FORMAT or table["kind"] not in get_args(Kind):
            raise ValueError("unknown format or kind")
        return Manifest.from_dict(table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"The record {folder / FILE} cannot be read: {error}.",
            f"Fetch the model again with: chatlm models pull {folder.name}",
        ) from error


def missing_files(folder: Path, manifest: Manifest) -> list[str]:
    """Quick look, sizes only: each file that is missing or has another size, with what is wrong."""
    problems = []
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif path.stat().st_size != record.bytes:
            problems.append(f"{name}: {path.stat().st_size} bytes, should be {record.bytes}")
    return problems


def changed_files(
    folder: Path, manifest: Manifest, progress: Progress = silent, cancelled: Cancelled = never
) -> list[str]:
    """Full look, every byte: each file that is not what was pulled, with what is wrong."""
    problems = missing_files(folder, manifest)
    named = {problem.partition(":")[0] for problem in problems}
    done = 0
    for name, record in manifest.files.items():
        check_cancelled(cancelled)
        progress("check", done, manifest.bytes)
        if name not in named and sha256(folder / name) != record.sha256:
            problems.append(f"{name}: its content changed (SHA-256 differs)")
        done += record.bytes
    progress("check", done, manifest.bytes)
    return problems
