"""List, describe, verify, remove local models; memory check."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm.config import paths
from chatlm.errors import ModelError, UsageError
from chatlm.hub.catalogue import CatalogueEntry, Kind, catalogue
from chatlm.hub.disk import tree_bytes
from chatlm.hub.jobs import Cancelled, Progress, never, silent
from chatlm.hub.model_folder import (
    Manifest,
    changed_files,
    check_folder,
    folder_context,
    folder_kind,
    folder_problem,
    missing_files,
    read_manifest,
    safetensors_header,
)
from chatlm.hub.names import FolderTarget, Target, installed_manifests, resolve
from chatlm.hub.staging import discard, forget_partial, locked


@dataclass(frozen=True)
class ModelLocation:
    """A complete model on this machine."""

    name: str
    """Give it to `find` again and it is found; the path for a folder of the person's own."""
    folder: Path
    kind: Kind


@dataclass(frozen=True)
class ModelDetails:
    """What `chatlm models show` says; None is what is not known before the model is pulled."""

    name: str
    kind: Kind
    description: str
    licence: str
    context_length: int | None
    """Tokens."""
    installed: bool
    folder: Path | None
    bytes: int
    """On disk; for a catalogue model that is not pulled, about what it will take."""
    source: str
    """Where it came from, or the sources in the order they would be tried."""
    pulled_at: str | None
    parameters: int | None
    """How many numbers the weights have."""
    dtypes: tuple[str, ...]
    """Number formats of the weights, most frequent first."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "description": self.description,
            "licence": self.licence,
            "context_length": self.context_length,
            "installed": self.installed,
            "folder": str(self.folder) if self.folder else None,
            "bytes": self.bytes,
            "source": self.source,
            "pulled_at": self.pulled_at,
            "parameters": self.parameters,
            "dtypes": list(self.dtypes),
        }


def find_model(name: str) -> ModelLocation:
    """Where a model is, from the name a person gave; never by the network, in a few milliseconds.

    Args:
        name: of the catalogue, org/name or org/name@revision of the hub, a folder, a .gguf file, or
            an installed name. A GGUF file is found once it was converted.

    Raises:
        ModelError: unknown name, not on this machine, damaged, or not a safe and complete model.
    """
    target = resolve(name)
    if isinstance(target, FolderTarget):
        return own_folder(target.path)
    location = place_of(target)
    if location is None:
        raise ModelError(
            f"The model {name} is not on this machine yet.",
            f"Fetch it with: chatlm models pull {name}",
        )
    return location


def is_here(name: str) -> bool:
    """Whether a model can be used without fetching it.

    Raises:
        ModelError: there cannot be such a model, or it is damaged.
    """
    target = resolve(name)
    if isinstance(target, FolderTarget):
        own_folder(target.path)
        return True
    return place_of(target) is not None


def own_folder(folder: Path) -> ModelLocation:
    """The location of a folder of the person's own, once it is known to hold a whole model."""
    manifest = read_manifest(folder)
    check_folder(folder)
    return ModelLocation(str(folder), folder, manifest.kind if manifest else folder_kind(folder))


def place_of(target: Target) -> ModelLocation | None:
    """The location of a model that has its place in the models folder, None when it is not there.

    Raises:
        ModelError: it is there, but files are missing or cut short.
    """
    folder = paths.models_dir() / target.folder_name
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    problems = missing_files(folder, manifest)
    if problems:
        raise ModelError(
            f"The model {manifest.name} in {folder} is damaged: {problems[0]}.",
            f"Repair it with: chatlm models pull --force {manifest.name}",
        )
    return ModelLocation(manifest.name, folder, manifest.kind)


def installed() -> list[ModelDetails]:
    """Every model in the models folder, sorted by name."""
    return [_details(manifest, folder) for folder, manifest in installed_manifests()]


def known() -> list[ModelDetails]:
    """The catalogue in its order, then the other models in the models folder."""
    here = {details.name: details for details in installed()}
    listed = {name: here.get(name) or _not_pulled(entry) for name, entry in catalogue().items()}
    return list((listed | here).values())


def show(name: str) -> ModelDetails:
    """Everything chatlm knows about one model.

    Raises:
        ModelError: as `find`, but a catalogue model need not be pulled.
    """
    if name in catalogue() and read_manifest(paths.models_dir() / name) is None:
        return _not_pulled(catalogue()[name])
    location = find_model(name)
    manifest = read_manifest(location.folder)
    if manifest:
        return _details(manifest, location.folder)
    parameters, dtypes = _weights(location.folder)
    return ModelDetails(
        name=location.name,
        kind=location.kind,
        description="A model folder of your own.",
        licence="",
        context_length=folder_context(location.folder),
        installed=True,
        folder=location.folder,
        bytes=tree_bytes(location.folder),
        source=f"folder {location.folder}",
        pulled_at=None,
        parameters=parameters,
        dtypes=dtypes,
    )


def verify(name: str, progress: Progress = silent, cancelled: Cancelled = never) -> list[str]:
    """Read every byte of a model and compare it with what was pulled.

    Returns:
        One line for each file that is wrong. A folder of the person's own has no record to compare
        with: there its completeness is checked.

    Raises:
        ModelError: the model is not on this machine.
    """
    target = resolve(name)
    folder = target.path if isinstance(target, FolderTarget) else _folder(target)
    try:
        manifest = read_manifest(folder)
    except ModelError as error:
        return [error.message]
    if manifest:
        return changed_files(folder, manifest, progress, cancelled)
    problem = folder_problem(folder)
    return [problem[0]] if problem else []


def remove(name: str) -> int:
    """Delete a model from the models folder, and what an interrupted pull left of it.

    Returns:
        The bytes that are free again.

    Raises:
        UsageError: the name is a folder of the person's own, which chatlm never deletes.
        ModelError: unknown name, or the model is not on this machine.
    """
    target = resolve(name)
    if isinstance(target, FolderTarget):
        raise UsageError(
            f"{target.path} is your own folder; chatlm only removes models it pulled.",
            "Delete it yourself if you no longer need it.",
        )
    with locked(target.folder_name):
        freed = forget_partial(target.folder_name)
        folder = paths.models_dir() / target.folder_name
        if not folder.is_dir() and not freed:
            _folder(target)
        if folder.is_dir():
            freed += tree_bytes(folder)
            discard(folder, target.folder_name)
    return freed


def _folder(target: Target) -> Path:
    folder = paths.models_dir() / target.folder_name
    if not folder.is_dir():
        raise ModelError(
            f"The model {target.name} is not on this machine.", "See: chatlm models list"
        )
    return folder


def _details(manifest: Manifest, folder: Path) -> ModelDetails:
    entry = catalogue().get(manifest.name)
    parameters, dtypes = _weights(folder)
    return ModelDetails(
        name=manifest.name,
        kind=manifest.kind,
        description=entry.description if entry else "",
        licence=entry.licence if entry else "",
        context_length=entry.context_length if entry else folder_context(folder),
        installed=not missing_files(folder, manifest),
        folder=folder,
        bytes=manifest.bytes,
        source=str(manifest.origin),
        pulled_at=manifest.pulled_at,
        parameters=parameters,
        dtypes=dtypes,
    )


def _not_pulled(entry: CatalogueEntry) -> ModelDetails:
    return ModelDetails(
        name=entry.name,
        kind=entry.kind,
        description=entry.description,
        licence=entry.licence,
        context_length=entry.context_length,
        installed=False,
        folder=None,
        bytes=entry.bytes,
        source=", else ".join(str(source) for source in entry.sources),
        pulled_at=None,
        parameters=None,
        dtypes=(),
    )


def _weights(folder: Path) -> tuple[int, tuple[str, ...]]:
    parameters: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        for tensor in (safetensors_header(path) or {}).values():
            parameters[tensor["dtype"]] += math.prod(tensor["shape"])
    return parameters.total(), tuple(dtype for dtype, _ in parameters.most_common())


MEMORY = Path("/proc/meminfo")
"""What Linux says about its memory; other systems have no such file."""


SHARE = 0.9
"""Part of the free memory that may be filled."""


def has_room(model: str) -> bool:
    """Whether the weights of a model fit into what is free now; True where that is not known.

    Args:
        model: its name, as a person gives it.
    """
    try:
        weights = sum(
            path.stat().st_size for path in find_model(model).folder.glob("*.safetensors")
        )
        told = re.search(r"^MemAvailable:\s+(\d+) kB", MEMORY.read_text("ascii"), re.MULTILINE)
    except (ModelError, OSError, ValueError):
        return True
    return told is None or weights <= SHARE * 1024 * int(told.group(1))
