"""Resolve model names: catalogue entry, hub repository, GGUF file or folder."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from chatlm.config import paths
from chatlm.config.paths import expand_path
from chatlm.errors import ModelError
from chatlm.hub.catalogue import CatalogueEntry, catalogue
from chatlm.hub.checksums import FileRecord, record_file
from chatlm.hub.gguf.file import split_paths, split_stem
from chatlm.hub.model_folder import MANIFEST_FILE, ModelManifest, ModelOrigin, read_manifest

_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?", re.ASCII)


@dataclass(frozen=True)
class CatalogueTarget:
    """A model of the catalogue."""

    entry: CatalogueEntry

    @property
    def name(self) -> str:
        """Name in the catalogue."""
        return self.entry.name

    @property
    def folder_name(self) -> str:
        """Folder below the models folder."""
        return self.entry.name


@dataclass(frozen=True)
class HubTarget:
    """A repository of the hub, optionally at a revision."""

    repository: str
    revision: str | None

    @property
    def name(self) -> str:
        """Name as typed: org/name or org/name@revision."""
        return f"{self.repository}@{self.revision}" if self.revision else self.repository

    @property
    def folder_name(self) -> str:
        """Folder below the models folder."""
        return self.name.replace("/", "--")


@dataclass(frozen=True)
class GgufTarget:
    """A GGUF file."""

    path: Path
    """Of the file, or of the first part of a split one."""
    origin: ModelOrigin
    """For its manifest."""

    @property
    def name(self) -> str:
        """Stem of the file and the start of its SHA-256."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", split_stem(self.path)).strip(".-")
        return f"{stem}-{self.origin.revision[:8]}"

    @property
    def folder_name(self) -> str:
        """Folder below the models folder."""
        return self.name

    def records(self) -> dict[Path, FileRecord]:
        """Return the checksums of the file, or of each part, which are read once."""
        return {path: _record(path, file_stamp(path)) for path in split_paths(self.path)}


@dataclass(frozen=True)
class InstalledTarget:
    """A model that is already in the models folder, such as one from a GGUF file."""

    name: str
    folder_name: str
    """Folder below the models folder."""


@dataclass(frozen=True)
class FolderTarget:
    """The user's own folder, used in place."""

    path: Path


ModelTarget = CatalogueTarget | HubTarget | GgufTarget | InstalledTarget
"""Targets that are installed in the models folder."""


def resolve_name(name: str) -> ModelTarget | FolderTarget:
    """Resolve a name.

    In this order: a catalogue name, an existing folder or .gguf file, a hub id, an installed name.

    Raises:
        ModelError: it means nothing; close names are suggested.
    """
    if name in catalogue():
        return CatalogueTarget(catalogue()[name])
    path = expand_path(name)
    try:
        if name and path.is_dir():
            return FolderTarget(path.absolute())
    except OSError as error:
        raise ModelError(f"{name[:60]}… is not a model: {error.strerror}.") from error
    if path.suffix.lower() == ".gguf":
        return _resolve_gguf(path.absolute())
    hub_id = _HUB_ID.fullmatch(name)
    if hub_id:
        return HubTarget(hub_id["repository"], hub_id["revision"])
    folder = _installed_folders().get(name)
    if folder:
        return InstalledTarget(name, folder.name)
    if name.startswith(("/", ".", "~")):
        raise ModelError(f"There is no model folder {path}.", "Check the path.")
    raise ModelError(f"There is no model called {name!r}.", _suggest_names(name))


def installed_manifests() -> list[tuple[Path, ModelManifest]]:
    """List the folders in the models folder that have a readable manifest, sorted by name."""
    found = []
    for folder in sorted(paths.models_dir().glob("[!.]*/")):
        with contextlib.suppress(ModelError):
            manifest = read_manifest(folder)
            if manifest:
                found.append((folder, manifest))
    return found


def installed_names() -> list[str]:
    """List the installed models; by folder name if the manifest is damaged."""
    return list(_installed_folders())


def known_names() -> list[str]:
    """List every name that needs no path: the catalogue, then installed models."""
    return list(dict.fromkeys([*catalogue(), *installed_names()]))


def file_stamp(*paths: Path) -> str:
    """Return sizes and times of files; if all are equal, the files count as unchanged."""
    status = [path.stat() for path in paths]
    return ",".join(f"{each.st_size}-{each.st_mtime_ns}" for each in status)


def _installed_folders() -> dict[str, Path]:
    names = {folder: manifest.name for folder, manifest in installed_manifests()}
    folders = sorted(
        manifest.parent for manifest in paths.models_dir().glob(f"[!.]*/{MANIFEST_FILE}")
    )
    return {names.get(folder, folder.name): folder for folder in folders}


def _resolve_gguf(path: Path) -> GgufTarget:
    parts = split_paths(path)
    for part in parts:
        if not part.is_file():
            one_of = "" if part == path else f", a part of {path.name}"
            raise ModelError(f"There is no GGUF file {part}{one_of}.", "Check the path.")
        with part.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(
                    f"{part} is not a GGUF file.", "Download it again; it may be cut short."
                )
    stamp = file_stamp(*parts)
    for _, manifest in installed_manifests():
        if manifest.origin.where == str(parts[0]) and manifest.origin.stamp == stamp:
            return GgufTarget(parts[0], manifest.origin)
    digests = [_record(part, file_stamp(part)).sha256 for part in parts]
    digest = digests[0]
    if len(digests) > 1:
        digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return GgufTarget(parts[0], ModelOrigin("gguf", str(parts[0]), digest, stamp))


@functools.cache
def _record(path: Path, stamp: str) -> FileRecord:
    return record_file(path)


def _suggest_names(name: str) -> str:
    address = re.match(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(.+?)/*$", name)
    hub_id = "/".join(address[1].split("/")[:2]) if address else ""
    if _HUB_ID.fullmatch(hub_id):
        return f"Give the model's name instead of its address: {hub_id}"
    close = difflib.get_close_matches(name.lower(), known_names(), n=3, cutoff=0.4)
    if close:
        return f"Did you mean {' or '.join(close)}? All names: chatlm models list"
    return "See the names with: chatlm models list; or give org/name, a folder or a .gguf file."
