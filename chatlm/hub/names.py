"""Resolve model names: catalogue entry, hub repository, GGUF file, folder, or a name from another
program."""

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
from chatlm.hub.catalogue import (
    CatalogueEntry,
    catalogue,
    close_names,
    find_entry,
    unknown_quantization,
)
from chatlm.hub.checksums import FileRecord, record_file
from chatlm.hub.gguf.file import split_paths, split_stem
from chatlm.hub.gguf_choices import normalize_quantization, shorten_stem
from chatlm.hub.model_folder import (
    MANIFEST_FILE,
    ModelManifest,
    ModelOrigin,
    model_folder_name,
    read_manifest,
)
from chatlm.hub.other_programs import find_stored_model, list_stored_models

_HUB_ID = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(:(?P<quantization>\w[\w.-]*))?(@(?P<revision>\w[\w./-]*))?",
    re.ASCII,
)
_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<rest>[^?#]+?)/*(?:[?#].*)?", re.ASCII
)
_LINK = re.compile(
    r"(?P<repository>[^/]+/[^/]+)/(?:tree|blob|resolve)/(?P<revision>[^/]+)(?P<file>/.+)?"
)


@dataclass(frozen=True)
class CatalogueTarget:
    """A model of the catalogue."""

    entry: CatalogueEntry
    quantization: str = ""
    """Empty for the default one."""

    @property
    def name(self) -> str:
        """Name in the catalogue, with the quantization unless it is the default one."""
        ending = f"-{self.quantization.lower()}" if self.quantization else ""
        return self.entry.name + ending

    @property
    def folder_name(self) -> str:
        """Folder below the models folder."""
        return model_folder_name(self.name)


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
        return model_folder_name(self.name)


@dataclass(frozen=True)
class HubGgufTarget:
    """GGUF files of a repository of the hub."""

    repository: str
    revision: str | None
    quantization: str
    """Such as Q4_K_M, or the stem of a file."""

    @property
    def name(self) -> str:
        """ORG/NAME:QUANTIZATION, with @REVISION if one was given."""
        ending = f"@{self.revision}" if self.revision else ""
        return f"{self.repository}:{self.quantization}{ending}"

    @property
    def folder_name(self) -> str:
        """Folder below the models folder."""
        return model_folder_name(self.name)


@dataclass(frozen=True)
class GgufTarget:
    """A GGUF file."""

    path: Path
    """Of the file, or of the first part of a split one."""
    origin: ModelOrigin
    """For its manifest."""
    label: str = ""
    """What another program calls it; empty for its file's name."""

    @property
    def name(self) -> str:
        """Stem of the file and the start of its SHA-256, or what the other program calls it."""
        if self.label:
            return self.label
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", split_stem(self.path)).strip(".-")
        return f"{stem}-{self.origin.revision[:8]}"

    @property
    def folder_name(self) -> str:
        """Folder below the models folder."""
        return model_folder_name(self.name)

    def file_name(self, path: Path) -> str:
        """Return a file's name in the model's folder; other programs may name it by a hash."""
        return path.name if path.suffix.lower() == ".gguf" else f"{self.folder_name}.gguf"

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


ModelTarget = CatalogueTarget | HubTarget | HubGgufTarget | GgufTarget | InstalledTarget
"""Targets that are installed in the models folder."""


def resolve_name(name: str) -> ModelTarget | FolderTarget:
    """Resolve a name.

    In this order: a name or alias of the catalogue, an existing folder or .gguf file, a hub id or
    the address of its page, an installed name, and a model that another program has on this disk.

    Raises:
        ModelError: it means nothing; close names are suggested.
    """
    if found := find_entry(name):
        return CatalogueTarget(*found)
    path = expand_path(name)
    try:
        if name and path.is_dir():
            return FolderTarget(path.absolute())
    except OSError as error:
        raise ModelError(f"{name[:60]}… is not a model: {error.strerror}.") from error
    folder = _installed_folders().get(name)
    if folder:
        return _known_target(name, folder)
    if hub := _resolve_hub(name):
        return hub
    if path.suffix.lower() == ".gguf":
        return _resolve_gguf(path.absolute())
    if stored := find_stored_model(name):
        return _resolve_gguf(stored.path, stored.name)
    if name.startswith(("/", ".", "~")):
        raise ModelError(f"There is no model folder {path}.", "Check the path.")
    raise ModelError(f"There is no model called {name!r}.", _suggest_names(name))


def resolve_installed_name(name: str) -> ModelTarget:
    """Resolve the name of a model that may be in the models folder; a path is none.

    Args:
        name: of the catalogue, an installed model or the hub, perhaps with Ollama's `:latest`.

    Raises:
        ModelError: it means nothing.
    """
    for each in (name, name.removesuffix(":latest")):
        if found := find_entry(each):
            return CatalogueTarget(*found)
        if folder := _installed_folders().get(each):
            return _known_target(each, folder)
    if hub := _resolve_hub(name):
        return hub
    raise ModelError(f"There is no model called {name!r}.", _suggest_names(name))


def _known_target(name: str, folder: Path) -> ModelTarget:
    """Return the target of an installed model: its repository if it came from one."""
    hub = _resolve_hub(name)
    return hub if hub and hub.folder_name == folder.name else InstalledTarget(name, folder.name)


def _resolve_hub(name: str) -> HubTarget | HubGgufTarget | None:
    """Return the repository, or the files of it, that a hub id or an address names."""
    address = _ADDRESS.fullmatch(name)
    wanted, file, revision = (address["rest"] if address else name), "", None
    if address and (link := _LINK.fullmatch(wanted)):
        wanted, revision = link["repository"], link["revision"]
        file = (link["file"] or "").rpartition("/")[2]
    hub_id = _HUB_ID.fullmatch(wanted)
    if hub_id is None or (not address and wanted.lower().endswith(".gguf")):
        return None
    repository = hub_id["repository"]
    revision = hub_id["revision"] or (None if revision == "main" else revision)
    quantization = hub_id["quantization"] or ""
    if file.lower().endswith(".gguf"):
        quantization = shorten_stem(repository, split_stem(Path(file)))
    if quantization and quantization != "latest":
        return HubGgufTarget(repository, revision, normalize_quantization(quantization))
    plain = HubTarget(repository, revision)
    if not (paths.models_dir() / plain.folder_name).is_dir():
        # of a repository with GGUF files alone, one may be here
        for installed in installed_names():
            here = _HUB_ID.fullmatch(installed)
            if (
                here
                and here["quantization"]
                and (here["repository"], here["revision"]) == (repository, revision)
            ):
                return HubGgufTarget(repository, revision, here["quantization"])
    return plain


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


def _resolve_gguf(path: Path, label: str = "") -> GgufTarget:
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
            return GgufTarget(parts[0], manifest.origin, label)
    digests = [_record(part, file_stamp(part)).sha256 for part in parts]
    digest = digests[0]
    if len(digests) > 1:
        digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return GgufTarget(parts[0], ModelOrigin("gguf", str(parts[0]), digest, stamp), label)


@functools.cache
def _record(path: Path, stamp: str) -> FileRecord:
    return record_file(path)


_SERVICES = {
    "gpt-oss": "",
    "gpt-": "https://api.openai.com/v1",
    "chatgpt": "https://api.openai.com/v1",
    "o1": "https://api.openai.com/v1",
    "o3": "https://api.openai.com/v1",
    "o4": "https://api.openai.com/v1",
    "claude": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
    "grok": "https://api.x.ai/v1",
}
"""Starts of the names of models whose weights are not published, and where they are served."""


def _suggest_names(name: str) -> str:
    typed = name.lower()
    found = find_entry(name.rpartition("-")[0])
    if found and found[0].gguf:
        return unknown_quantization(found[0], name.rpartition("-")[2]).hint
    near = close_names(name)
    if typed.startswith(("ollama:", "lmstudio:")):
        near = difflib.get_close_matches(name, [each.name for each in list_stored_models()])
    near += [n for n in difflib.get_close_matches(typed, known_names(), 3, 0.4) if n not in near]
    lines = []
    service = next((where for start, where in _SERVICES.items() if typed.startswith(start)), "")
    if service:
        lines.append(
            f"{name} runs only on its maker's servers. With a key of theirs:\n"
            f"  chatlm config set plugins.openai.endpoints '[\"cloud {service} API_KEY\"]'\n"
            f"  API_KEY=… chatlm -m openai:{name}@cloud"
        )
    if near:
        *first, last = near[:3]
        listed = f"{', '.join(first)} or {last}" if first else last
        begin = f"Models that run here: {listed}." if service else f"Did you mean {listed}?"
        lines.append(f"{begin} Take one: chatlm pull {near[0]}")
    lines.append(
        "All names: chatlm models list; or give ORG/NAME of the hub, a folder or a .gguf file."
    )
    return "\n".join(lines)
