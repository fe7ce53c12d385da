"""List, describe, verify and remove installed models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm.config import paths
from chatlm.config.config import load_config
from chatlm.errors import ModelError, UsageError
from chatlm.hub.catalogue import (
    CatalogueEntry,
    EmbedderFacts,
    GgufFiles,
    ModelKind,
    catalogue,
    find_entry,
)
from chatlm.hub.disk import freed_bytes, tree_bytes
from chatlm.hub.generation_config import read_generation_config, recommended_sampling
from chatlm.hub.gguf.architectures import UnknownArchitecture
from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf.known_templates import compare_templates, template_facts, template_warning
from chatlm.hub.jobs import CancelCheck, ProgressCallback, ignore_progress, never_cancelled
from chatlm.hub.model_folder import (
    ModelManifest,
    check_folder,
    detect_model_kind,
    find_hash_mismatches,
    find_quick_mismatches,
    find_size_mismatches,
    folder_context_length,
    folder_problem,
    read_manifest,
)
from chatlm.hub.names import (
    CatalogueTarget,
    FolderTarget,
    GgufTarget,
    ModelTarget,
    installed_manifests,
    resolve_installed_name,
    resolve_name,
)
from chatlm.hub.other_programs import StoredModel, find_stored_model, list_stored_models
from chatlm.hub.staging import delete_partial_download, discard_folder, lock_model
from chatlm.hub.tensor_check import NotChecked, find_wrong_folder_tensors
from chatlm.hub.vision import reads_images
from chatlm.hub.weights import MMPROJ_FILE, parameters_by_type
from chatlm.types.engine import ModelListing
from chatlm.types.sampling import Sampling


@dataclass(frozen=True)
class ModelLocation:
    """A complete model on this machine."""

    name: str
    """Name that `find_model` accepts; the path for the user's own folder."""
    folder: Path
    kind: ModelKind


@dataclass(frozen=True)
class ModelDetails:
    """Details of a model; None for what is unknown until it is installed."""

    name: str
    kind: ModelKind
    description: str
    licence: str
    context_length: int | None
    """Tokens."""
    installed: bool
    folder: Path | None
    bytes: int
    """On disk; an estimate for a catalogue model that is not installed."""
    source: str
    """Where it came from, or the sources in the order they are tried."""
    pulled_at: str | None
    parameters: int | None
    """Number of parameters."""
    dtypes: tuple[str, ...]
    """Number formats of the weights, most frequent first."""
    abilities: tuple[str, ...] = ()
    """Abilities as in `ModelListing`."""
    sampling: Sampling = field(default_factory=Sampling)
    """The sampling that is recommended for it."""
    warning: str = ""
    """What the user should know before using it, such as a chat template that was changed."""
    aliases: tuple[str, ...] = ()
    """Other names that mean the same."""
    quantizations: tuple[GgufFiles, ...] = ()
    """The GGUF files that the catalogue lists, the default ones first."""
    languages: str = ""
    """Languages of an embedder or a reranker, as the catalogue says."""
    embedding: EmbedderFacts | None = None
    """What the catalogue says of an embedder."""

    @property
    def summary(self) -> str:
        """The marks, then the description, which may be cut off."""
        return " · ".join(filter(None, (self.marks, self.description)))

    @property
    def marks(self) -> str:
        """A sign of a warning, and the abilities or scores."""
        sign = "warning, see `chatlm models show`" if self.warning else ""
        scores = self.embedding.scores if self.embedding else ""
        found = f"MTEB retrieval {scores}" if scores else ""
        return " · ".join(filter(None, (sign, ", ".join(self.abilities), found)))

    @classmethod
    def from_listing(cls, listing: ModelListing) -> ModelDetails:
        """Return the details of a model that a plugin's engine can open."""
        return cls(
            name=listing.name,
            kind="chat",
            description=listing.description,
            licence="",
            context_length=listing.context_length,
            installed=True,
            folder=None,
            bytes=0,
            source=listing.name.partition(":")[0],
            pulled_at=None,
            parameters=None,
            dtypes=(),
            abilities=listing.abilities,
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
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
            "abilities": list(self.abilities),
            "sampling": self.sampling.to_dict(),
            "warning": self.warning,
            "aliases": list(self.aliases),
            "quantizations": [
                {"name": each.quantization, "files": list(each.names), "bytes": each.bytes}
                for each in self.quantizations
            ],
            "languages": self.languages,
            "embedding": self.embedding.to_dict() if self.embedding else None,
        }


@dataclass(frozen=True)
class Verification:
    """What `verify_model` found."""

    problems: tuple[str, ...]
    """What is wrong; the model must not be used."""
    notes: tuple[str, ...] = ()
    """What the user should know otherwise."""
    repair: str = ""
    """The next step if there are problems."""


def find_model(name: str) -> ModelLocation:
    """Find an installed model by name, without network access, in a few milliseconds.

    Args:
        name: of the catalogue, org/name or org/name@revision of the hub, a folder, a .gguf file, or
            an installed name. A GGUF file is found once it was pulled.

    Raises:
        ModelError: unknown name, not on this machine, damaged, or not a safe and complete model.
    """
    target = resolve_name(name)
    if isinstance(target, FolderTarget):
        return locate_folder(target.path)
    location = locate_target(target)
    if location is None:
        raise ModelError(
            f"The model {name} is not on this machine yet.",
            f"Download it: chatlm models pull {name}",
        )
    return location


def find_installed_model(name: str) -> ModelLocation:
    """Return a model of the models folder; for names from other programs, so a path is none.

    Raises:
        ModelError: there is no such model, or it cannot be used.
    """
    target = resolve_installed_name(name)
    location = locate_target(target)
    if location is None:
        raise ModelError(
            f"The model {target.name} is not installed.",
            hint=f"Install it: chatlm pull {target.name}",
        )
    return location


def is_installed(name: str) -> bool:
    """Tell whether a model can be used without downloading it.

    Raises:
        ModelError: there cannot be such a model, or it is damaged.
    """
    target = resolve_name(name)
    if isinstance(target, FolderTarget):
        locate_folder(target.path)
        return True
    return locate_target(target) is not None


def locate_folder(folder: Path) -> ModelLocation:
    """Return the location of the user's own folder after checking that it is a complete model."""
    manifest = read_manifest(folder)
    check_folder(folder)
    if manifest:
        _check_intact(folder, manifest)
    return ModelLocation(
        str(folder), folder, manifest.kind if manifest else detect_model_kind(folder)
    )


def locate_target(target: ModelTarget) -> ModelLocation | None:
    """Return the location of a model in the models folder; None if it is not installed.

    Raises:
        ModelError: it is installed, but files are missing or truncated.
    """
    folder = paths.models_dir() / target.folder_name
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    _check_intact(folder, manifest)
    return ModelLocation(manifest.name, folder, manifest.kind)


_intact: set[tuple[Path, tuple[tuple[int, int], ...]]] = set()
"""Folders that were checked in this process, with the times and sizes of their files."""


def _check_intact(folder: Path, manifest: ModelManifest) -> None:
    """Check a model's files quickly, once per process until one of them changes.

    Raises:
        ModelError: a file is missing or differs from what was pulled.
    """
    try:
        facts = [(folder / name).stat() for name in manifest.files]
        key = (folder, tuple((fact.st_mtime_ns, fact.st_size) for fact in facts))
        if key in _intact:
            return
        problems = find_quick_mismatches(folder, manifest)
    except OSError:
        problems = find_size_mismatches(folder, manifest) or ["its files cannot be read"]
    if problems:
        raise ModelError(
            f"The model {manifest.name} in {folder} is damaged: {problems[0]}.",
            f"Repair it: chatlm models pull --force {manifest.name}",
        )
    _intact.add(key)


def list_installed_models() -> list[ModelDetails]:
    """List every model in the models folder, sorted by name."""
    return [_installed_details(manifest, folder) for folder, manifest in installed_manifests()]


def list_known_models() -> list[ModelDetails]:
    """List the catalogue in its order, then the other models in the models folder, then those that
    other programs have on this disk."""
    here = {details.name: details for details in list_installed_models()}
    listed = {
        name: here.get(name) or _catalogue_details(entry) for name, entry in catalogue().items()
    }
    stored = {model.name: _stored_details(model) for model in list_stored_models()}
    return list((listed | stored | here).values())


def describe_model(name: str) -> ModelDetails:
    """Describe one model, installed or from the catalogue.

    Raises:
        ModelError: as `find`, but a catalogue model need not be pulled.
    """
    target = resolve_name(name)
    if (
        isinstance(target, CatalogueTarget)
        and read_manifest(paths.models_dir() / target.folder_name) is None
    ):
        return _catalogue_details(target.entry, target.quantization)
    if (
        isinstance(target, GgufTarget)
        and (stored := find_stored_model(name))
        and read_manifest(paths.models_dir() / target.folder_name) is None
    ):
        return _stored_details(stored)
    location = find_model(name)
    manifest = read_manifest(location.folder)
    if manifest:
        return _installed_details(manifest, location.folder)
    parameters, dtypes = _count_by_dtype(location.folder)
    return ModelDetails(
        name=location.name,
        kind=location.kind,
        description="A model folder of your own.",
        licence="",
        context_length=folder_context_length(location.folder),
        installed=True,
        folder=location.folder,
        bytes=tree_bytes(location.folder),
        source=f"folder {location.folder}",
        pulled_at=None,
        parameters=parameters,
        dtypes=dtypes,
        abilities=_image_ability(location.folder),
        sampling=_folder_sampling(location.folder),
    )


def verify_model(
    name: str,
    progress: ProgressCallback = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
) -> Verification:
    """Compare every file of a model with its checksum, and its tensors with its architecture.

    A folder of the user's own has no checksums: there its completeness is checked. A GGUF file
    need not be pulled.

    Raises:
        ModelError: the model is not on this machine.
    """
    target = resolve_name(name)
    if isinstance(target, GgufTarget):
        found = _verify_gguf(target.path)
        if found.problems or not (paths.models_dir() / target.folder_name).is_dir():
            return found
    folder = target.path if isinstance(target, FolderTarget) else _require_folder(target)
    repair = (
        "Copy or download the model again."
        if isinstance(target, FolderTarget)
        else f"Repair it: chatlm models pull --force {name}"
    )
    try:
        manifest = read_manifest(folder)
    except ModelError as error:
        return Verification((error.message,), repair=repair)
    if manifest:
        kind = manifest.kind
        problems = find_hash_mismatches(folder, manifest, progress, cancelled)
    else:
        problem = folder_problem(folder)
        problems = [problem[0]] if problem else []
        kind = detect_model_kind(folder)
    if problems:
        return Verification(tuple(problems), repair=repair)
    return _verify_tensors(folder, kind, repair)


def _verify_tensors(folder: Path, kind: ModelKind, repair: str) -> Verification:
    notes = [warning] if (warning := template_warning(folder)) else []
    try:
        wrong = find_wrong_folder_tensors(folder, kind)
    except NotChecked as reason:
        notes.append(f"Its tensors were not compared with its architecture: {reason}.")
        wrong = []
    except ModelError as error:
        return Verification((error.message,), tuple(notes), repair)
    return Verification(
        tuple(f"The tensors do not fit config.json: {tensor}" for tensor in wrong),
        tuple(notes),
        repair,
    )


def _verify_gguf(path: Path) -> Verification:
    """Check a GGUF file without reading its weights."""
    from chatlm.hub.gguf.tokenizer import read_templates
    from chatlm.hub.gguf_folder import read_model, read_unknown_config

    notes: list[str] = []
    try:
        with GgufFile(path) as file:
            try:
                read_model(file)
            except UnknownArchitecture as unknown:
                read_unknown_config(file)
                notes.append(f"{unknown.message} {unknown.hint}.")
            general = template_facts(file)["general"]
            warning = compare_templates(general, list(read_templates(file).values()))
    except GgufError as error:
        return Verification((error.message,), repair=error.hint)
    return Verification((), (*notes, *filter(None, [warning])))


def remove_model(name: str) -> int:
    """Delete a model from the models folder, including the remains of an interrupted download.

    Returns:
        The number of freed bytes; a file that the user also has elsewhere is not counted.

    Raises:
        UsageError: the name is a folder of the user's own, which chatlm never deletes.
        ModelError: unknown name, or the model is not on this machine.
    """
    target = resolve_name(name)
    if isinstance(target, FolderTarget):
        raise UsageError(
            f"{target.path} is your own folder; chatlm only removes models it pulled.",
            "Delete it yourself if you no longer need it.",
        )
    with lock_model(target.folder_name):
        freed = delete_partial_download(target.folder_name)
        folder = paths.models_dir() / target.folder_name
        if not folder.is_dir() and not freed:
            _require_folder(target)
        if folder.is_dir():
            freed += freed_bytes(folder)
            discard_folder(folder, target.folder_name)
    return freed


def _require_folder(target: ModelTarget) -> Path:
    folder = paths.models_dir() / target.folder_name
    if not folder.is_dir():
        raise ModelError(
            f"The model {target.name} is not on this machine.", "See: chatlm models list"
        )
    return folder


def _installed_details(manifest: ModelManifest, folder: Path) -> ModelDetails:
    found = find_entry(manifest.name)
    entry = found[0] if found else None
    parameters, dtypes = _count_by_dtype(folder)
    sampling = entry.sampling if entry else Sampling()
    return ModelDetails(
        name=manifest.name,
        kind=manifest.kind,
        description=entry.description if entry else "",
        licence=entry.licence if entry else "",
        context_length=entry.context_length if entry else folder_context_length(folder),
        installed=not find_size_mismatches(folder, manifest),
        folder=folder,
        bytes=manifest.bytes,
        source=str(manifest.origin),
        pulled_at=manifest.pulled_at,
        parameters=parameters,
        dtypes=dtypes,
        abilities=(*(entry.abilities if entry else ()), *_image_ability(folder)),
        sampling=sampling.with_fallback(_folder_sampling(folder)),
        warning=template_warning(folder) or "",
        aliases=entry.aliases if entry else (),
        quantizations=entry.gguf.files if entry and entry.gguf else (),
        languages=entry.languages if entry else "",
        embedding=entry.embedding if entry else None,
    )


def _catalogue_details(entry: CatalogueEntry, quantization: str = "") -> ModelDetails:
    files = entry.gguf.find(quantization) if entry.gguf else None
    return ModelDetails(
        name=CatalogueTarget(entry, quantization).name,
        kind=entry.kind,
        description=entry.description,
        licence=entry.licence,
        context_length=entry.context_length,
        installed=False,
        folder=None,
        bytes=files.bytes if files and quantization else entry.bytes,
        source=", else ".join(str(source) for source in entry.sources),
        pulled_at=None,
        parameters=entry.parameters,
        dtypes=(files.quantization,) if files else (),
        abilities=entry.abilities,
        sampling=entry.sampling,
        aliases=entry.aliases,
        quantizations=entry.gguf.files if entry.gguf else (),
        languages=entry.languages,
        embedding=entry.embedding,
    )


def _stored_details(model: StoredModel) -> ModelDetails:
    return ModelDetails(
        name=model.name,
        kind="chat",
        description=f"{model.program} has it on this disk; nothing is downloaded.",
        licence="",
        context_length=None,
        installed=False,
        folder=None,
        bytes=model.bytes,
        source=f"file {model.path}",
        pulled_at=None,
        parameters=None,
        dtypes=(),
    )


def _image_ability(folder: Path) -> tuple[str, ...]:
    """Return what its files say about images; with an mmproj file only llama.cpp reads them."""
    by_llamacpp = (folder / MMPROJ_FILE).is_file() and load_config().engine == "llamacpp"
    return ("images",) if by_llamacpp or reads_images(folder) else ()


def _folder_sampling(folder: Path) -> Sampling:
    """Return the sampling that a model's generation config recommends."""
    try:
        return recommended_sampling(folder.name, read_generation_config(folder))
    except (OSError, ValueError):
        return Sampling()


def _count_by_dtype(folder: Path) -> tuple[int, tuple[str, ...]]:
    parameters = parameters_by_type(folder)
    return parameters.total(), tuple(dtype for dtype, _ in parameters.most_common())
