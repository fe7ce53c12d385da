"""Downloads on the command line: say what fits before a byte is fetched, and offer files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from chatlm.cli.tables import print_table
from chatlm.config.config import load_config
from chatlm.errors import ModelError, OutOfMemoryError, UsageError
from chatlm.hub import installed
from chatlm.hub import pull as pull_module
from chatlm.hub.catalogue import CatalogueEntry, GgufFiles, entry_of_repository
from chatlm.hub.disk import human_bytes
from chatlm.hub.gguf_choices import choose_files, quality
from chatlm.hub.installed import ModelLocation
from chatlm.hub.names import (
    CatalogueTarget,
    FolderTarget,
    HubGgufTarget,
    HubTarget,
    ModelTarget,
    resolve_name,
)
from chatlm.hub.repository import is_offline, read_hub_config, read_repository
from chatlm.plugin_kit.progress import pull_progress
from chatlm.text import one_line

if TYPE_CHECKING:
    from chatlm.engines.fit import Fit, FitChecker

Choices = list[tuple[GgufFiles, "Fit"]]
"""The GGUF models of a repository and how each fits, smallest first."""


def download(name: str, *, force: bool = False, anyway: bool = False) -> ModelLocation:
    """Download a model with progress on stderr, after saying how it fits this machine.

    Args:
        name: see `chatlm.hub.names.resolve_name`.
        force: download again even if installed.
        anyway: download even what does not fit.

    Raises:
        OutOfMemoryError: it does not fit; nothing was downloaded.
        ModelError: see `chatlm.hub.pull.pull_model`.
    """
    target = resolve_name(name)
    if not isinstance(target, FolderTarget) and (force or not _is_here(target)):
        name = _check_target(name, target, anyway)
    with pull_progress() as progress:
        return pull_module.pull_model(name, progress, force=force)


def file_choices(name: str) -> tuple[str, Choices]:
    """Return the repository that a name means, and its GGUF files with how each fits.

    Raises:
        UsageError: the name is no repository of the hub.
        ModelError: the hub does not answer, or it has no GGUF files.
    """
    target = resolve_name(name)
    entry = None
    if isinstance(target, CatalogueTarget) and target.entry.gguf:
        entry, repository, revision = target.entry, target.entry.gguf.repository, "main"
    elif isinstance(target, HubTarget | HubGgufTarget):
        repository, revision = target.repository, target.revision or "main"
    else:
        raise UsageError(
            f"{one_line(name, 100)} is no repository with GGUF files.",
            hint="Give a hub id: chatlm models files ORG/NAME",
        )
    found = read_repository(repository, revision)
    if not found.ggufs:
        raise ModelError(
            f"{repository} has no complete GGUF model.",
            f"Take its safetensors: chatlm pull {repository}"
            if found.has_safetensors
            else "Choose another repository.",
        )
    entry = entry or entry_of_repository(repository)
    with _checker() as checker:
        return repository, [
            (files, checker.check_files(f"{repository}:{files.quantization}", files.bytes, entry))
            for files in found.ggufs
        ]


def file_rows(choices: Choices) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield a row of a table for each choice."""
    for files, fit in choices:
        parts = f" ({len(files.names)} parts)" if len(files.names) > 1 else ""
        speed = fit.speed_text or "-"
        yield (
            one_line(files.quantization, 40),
            human_bytes(files.bytes) + parts,
            quality(files.quantization),
            fit.summary,
            speed,
        )


def _is_here(target: ModelTarget) -> bool:
    try:
        return installed.locate_target(target) is not None
    except ModelError:  # damaged
        return False


def _check_target(name: str, target: ModelTarget, anyway: bool) -> str:
    """Say how a model fits; return the name to pull, with the quantization that was chosen."""
    match target:
        case CatalogueTarget(entry, quantization) if entry.kind == "chat":
            files = entry.gguf.find(quantization) if entry.gguf else None
            with _checker() as checker:
                fit = checker.check_files(target.name, files.bytes if files else entry.bytes, entry)
                _say_fit(target.name, fit, entry, checker, anyway)
        case HubTarget(repository) if not is_offline():
            try:
                found = read_repository(repository, target.revision or "main")
                config = read_hub_config(found)
            except ModelError:
                return name  # the pull says what is wrong, or finds it in the cache
            if config is not None:
                with _checker() as checker:
                    size = found.safetensors_bytes
                    whole = checker.check_repository(target.name, config, size)
                    if whole is not None:
                        _say_fit(target.name, whole, size, checker, anyway)
            if found.has_safetensors or not found.ggufs:
                return name
            _, choices = file_choices(name)
            files, fit = _choose(repository, choices)
            chosen = HubGgufTarget(repository, target.revision, files.quantization).name
            with _checker() as checker:
                _say_fit(chosen, fit, files.bytes, checker, anyway)
            return chosen
        case HubGgufTarget(repository, revision, quantization) if not is_offline():
            try:
                found = read_repository(repository, revision or "main")
            except ModelError:
                return name
            files = choose_files(repository, found.ggufs, quantization)
            with _checker() as checker:
                fit = checker.check_files(target.name, files.bytes, entry_of_repository(repository))
                _say_fit(target.name, fit, files.bytes, checker, anyway)
    return name


def _choose(repository: str, choices: Choices) -> tuple[GgufFiles, Fit]:
    """Choose files of a repository: ask on a terminal, else take the usual ones that fit."""
    fitting = [files for files, fit in choices if fit.verdict in ("fits", "unknown")]
    usual = choose_files(repository, fitting or [files for files, _ in choices])
    by_name = {files.quantization: (files, fit) for files, fit in choices}
    if len(choices) > 1 and sys.stdin.isatty() and sys.stderr.isatty():
        print_table(("FILE", "SIZE", "QUALITY", "FIT", "SPEED"), file_rows(choices))
        wanted = click.prompt(
            "Which file?",
            default=usual.quantization,
            type=click.Choice(list(by_name), case_sensitive=False),
            show_choices=False,
            err=True,
        )
        return by_name[wanted]
    if len(choices) > 1:
        click.echo(
            f"{repository} has {len(choices)} models; taking {usual.quantization}. "
            f"All: chatlm models files {repository}",
            err=True,
        )
    return by_name[usual.quantization]


def _say_fit(
    name: str,
    fit: Fit,
    entry_or_size: CatalogueEntry | int,
    checker: FitChecker,
    anyway: bool,
) -> None:
    """Print what a download takes and how it would run; refuse what does not fit."""
    speed = f", {fit.speed_text}" if fit.speed_text else ""
    click.echo(
        f"{one_line(name, 80)}: {human_bytes(fit.download_bytes)} to download, "
        f"{fit.summary}{speed}.",
        err=True,
    )
    refused = fit.verdict == "too big" or fit.disk_missing
    if refused and not anyway:
        smaller = checker.smaller(entry_or_size)
        fits = f"This fits: chatlm pull {smaller.name}\n" if smaller else ""
        raise OutOfMemoryError(
            fit.describe_need(name) + " Nothing was downloaded.",
            hint=f"{fits}To download it all the same: chatlm models pull --anyway {name}",
        )
    if not fit.engine:
        click.echo("Only llama.cpp runs it: pip install 'chatlm[llamacpp]'", err=True)


@contextmanager
def _checker() -> Iterator[FitChecker]:
    from chatlm.chat.model_list import fit_checker
    from chatlm.plugin_host.lifecycle import loaded_plugins

    config = load_config()
    with loaded_plugins(config) as plugins:
        yield fit_checker(config, plugins)
