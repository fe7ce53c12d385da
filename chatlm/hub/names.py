"""What a person means by a model's name: catalogue, hub, GGUF file or folder; no network."""

from __future__ import annotations

import contextlib
import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from chatlm.config import paths
from chatlm.config.paths import expand_path
from chatlm.errors import ModelError
from chatlm.hub.catalogue import CatalogueEntry, catalogue
from chatlm.hub.disk import sha256
from chatlm.hub.model_folder import MANIFEST_FILE, ModelManifest, ModelOrigin, read_manifest

_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?", re.ASCII)


@dataclass(frozen=True)
class CatalogueTarget:
    """A name of the catalogue."""

    entry: CatalogueEntry

    @property
    def name(self) -> str:
        """The catalogue's name."""
        return self.entry.name

    @property
    def folder_name(self) -> str:
        """Its folder below the models folder."""
        return self.entry.name


@dataclass(frozen=True)
class HubTarget:
    """A repository of the hub, perhaps at a revision."""

    repository: str
    revision: str | None

    @property
    def name(self) -> str:
        """As the person writes it: org/name or org/name@revision."""
        return f"{self.repository}@{self.revision}" if self.revision else self.repository

    @property
    def folder_name(self) -> str:
        """Its folder below the models folder."""
        return self.name.replace("/", "--")


@dataclass(frozen=True)
class GgufTarget:
    """A GGUF file, which is converted once."""

    path: Path
    digest: str

    @property
    def name(self) -> str:
        """The file's stem and the start of its SHA-256."""
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.path.stem).strip('.-')}-{self.digest[:8]}"

    @property
    def folder_name(self) -> str:
        """Its folder below the models folder."""
        return self.name

    @property
    def origin(self) -> ModelOrigin:
        """What its manifest says about where it came from."""
        return ModelOrigin("gguf", str(self.path), self.digest, file_stamp(self.path))


@dataclass(frozen=True)
class InstalledTarget:
    """The name of a model that is in the models folder already, such as a converted GGUF."""

    name: str
    folder_name: str
    """Its folder below the models folder."""


@dataclass(frozen=True)
class FolderTarget:
    """A folder of the person's own, used where it is."""

    path: Path


ModelTarget = CatalogueTarget | HubTarget | GgufTarget | InstalledTarget
"""What has its place in the models folder."""


def resolve_name(name: str) -> ModelTarget | FolderTarget:
    """Say what a name means.

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
        raise ModelError(f"{name[:60]}… is no model: {error.strerror}.") from error
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
    """Every folder of the models folder that has a readable manifest, sorted by name."""
    found = []
    for folder in sorted(paths.models_dir().glob("[!.]*/")):
        with contextlib.suppress(ModelError):
            manifest = read_manifest(folder)
            if manifest:
                found.append((folder, manifest))
    return found


def installed_names() -> list[str]:
    """The names of the models in the models folder; the folder's where the manifest is damaged."""
    return list(_installed_folders())


def known_names() -> list[str]:
    """Every name a person can give without a path: catalogue first, then installed ones."""
    return list(dict.fromkeys([*catalogue(), *installed_names()]))


def file_stamp(path: Path) -> str:
    """Size and time of a file; a file that keeps both is taken to be unchanged."""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _installed_folders() -> dict[str, Path]:
    names = {folder: manifest.name for folder, manifest in installed_manifests()}
    folders = sorted(
        manifest.parent for manifest in paths.models_dir().glob(f"[!.]*/{MANIFEST_FILE}")
    )
    return {names.get(folder, folder.name): folder for folder in folders}


def _resolve_gguf(path: Path) -> GgufTarget:
    if not path.is_file():
        raise ModelError(f"There is no GGUF file {path}.", "Check the path.")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(
                f"{path} is not a GGUF file.", "Download it again; it may be cut short."
            )
    if re.search(r"-\d{5}-of-\d{5}$", path.stem):
        raise ModelError(
            f"{path} is one part of a split GGUF.",
            "Join the parts with llama.cpp's gguf-split --merge.",
        )
    for _, manifest in installed_manifests():
        origin = manifest.origin
        if origin.where == str(path) and origin.stamp == file_stamp(path):
            return GgufTarget(path, origin.revision)
    return GgufTarget(path, sha256(path))


def _suggest_names(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), known_names(), n=3, cutoff=0.4)
    if close:
        return f"Did you mean {' or '.join(close)}? All names: chatlm models list"
    return "See the names with: chatlm models list; or give org/name, a folder or a .gguf file."
