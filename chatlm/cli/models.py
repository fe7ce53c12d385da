"""The commands `chatlm models …`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm.cli.command_groups import ExtensibleGroup
from chatlm.cli.completers import complete_model
from chatlm.cli.tables import print_table
from chatlm.config.config import load_config
from chatlm.errors import ConfigError, ModelError
from chatlm.hub import installed, usage
from chatlm.hub import names as names_module
from chatlm.hub.disk import human_bytes
from chatlm.hub.gguf_choices import choose_files, quality
from chatlm.hub.installed import ModelDetails, ModelLocation
from chatlm.hub.model_folder import model_files
from chatlm.plugin_kit.progress import pull_progress
from chatlm.text import dump_json, escape_controls, one_line
from chatlm.types.memory import MemoryBudget
from chatlm.types.sampling import Sampling

if TYPE_CHECKING:
    from chatlm.engines.fit import Fit
    from chatlm.hub.catalogue import EmbedderFacts


@click.group("models", cls=ExtensibleGroup)
def models_group() -> None:
    """List, pull, check and remove models.

    Example: chatlm models pull smollm2-135m-instruct
    """


@models_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--installed", is_flag=True, help="Only what can be used without a download.")
def list_models(as_json: bool, installed: bool) -> None:
    """List the models of the catalogue, installed ones and those of servers, and how each fits.

    FIT and SPEED are estimates for this machine with the present settings; --json says why.

    Example: chatlm models list --json
    """
    known, fits = _known_models()
    if installed:
        known = [details for details in known if details.installed]
    if as_json:
        click.echo(dump_json([_to_dict(each, fits.get(each.name)) for each in known]))
        return
    print_table(
        ("NAME", "KIND", "INSTALLED", "SIZE", "FIT", "TOKENS/S", "DESCRIPTION"),
        [
            (
                one_line(details.name, 48),
                details.kind,
                "yes" if details.installed else "no",
                human_bytes(details.bytes) if details.bytes else "-",
                fit.summary if (fit := fits.get(details.name)) else "-",
                fit.speed_text.removesuffix(" tokens/s") if fit and fit.speed_text else "-",
                one_line(details.summary, 100),
            )
            for details in known
        ],
    )


def _known_models() -> tuple[list[ModelDetails], dict[str, Fit]]:
    """Return all models and how they fit; what fails with plugins is printed to stderr."""
    from chatlm.chat.model_list import list_models_with_fit
    from chatlm.plugin_host.lifecycle import loaded_plugins

    try:
        config = load_config()
        with loaded_plugins(config) as plugins:
            listed = list_models_with_fit(config, plugins)
    except ConfigError as error:
        click.echo(escape_controls(f"Models of plugins are left out. {error}"), err=True)
        return installed.list_known_models(), {}
    for fault in listed.faults:
        click.echo(escape_controls(str(fault)), err=True)
    return list(listed.models), dict(listed.fits)


@models_group.command()
@click.argument("name", shell_complete=complete_model)
@click.option("--force", is_flag=True, help="Download again even if installed.")
@click.option("--anyway", is_flag=True, help="Download even what does not fit this machine.")
def pull(name: str, force: bool, anyway: bool) -> None:
    """Download a model.

    NAME is one of the catalogue (qwen3:4b), a hub id (ORG/NAME, ORG/NAME:Q4_K_M for GGUF files,
    ORG/NAME@REVISION), the address of its page, or a .gguf file.

    Example: chatlm models pull qwen3:4b
    """
    from chatlm.cli.model_download import download

    location = download(name, force=force, anyway=anyway)
    click.echo(f"{location.name} is ready in {location.folder}")
    if warning := installed.describe_model(location.name).warning:
        click.echo(escape_controls(f"Warning: {warning}"), err=True)


@models_group.command("files")
@click.argument("name", shell_complete=complete_model)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_files(name: str, as_json: bool) -> None:
    """List the GGUF files of a repository: size, quality and how each fits.

    Example: chatlm models files Qwen/Qwen3-4B-GGUF
    """
    from chatlm.cli.model_download import file_choices, file_rows

    repository, choices = file_choices(name)
    if as_json:
        click.echo(
            dump_json(
                [
                    {
                        "name": f"{repository}:{files.quantization}",
                        "quantization": files.quantization,
                        "files": list(files.names),
                        "bytes": files.bytes,
                        "quality": quality(files.quantization),
                        "fit": fit.to_dict(),
                    }
                    for files, fit in choices
                ]
            )
        )
        return
    print_table(("FILE", "SIZE", "QUALITY", "FIT", "SPEED"), file_rows(choices))
    usual = choose_files(repository, [files for files, _ in choices]).quantization
    click.echo(f"Take one: chatlm pull {repository}:{usual}")


@models_group.command()
@click.argument("name", shell_complete=complete_model)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show what is known about one model.

    Example: chatlm models show smollm2-135m-instruct
    """
    details = installed.describe_model(name)
    draft_model, problem = _draft_model(details)
    memory = _memory_budget(details, None if problem else draft_model)
    fit = _fit(details)
    template = _template(details)
    if as_json:
        shown = _to_dict(details, fit) | {
            "memory": memory.to_dict() if memory else None,
            "draft_model": {"name": draft_model.name, "problem": problem or None}
            if draft_model
            else None,
            "files": [{"name": file, "bytes": size} for file, size in _files(details)],
            "template": template or None,
        }
        click.echo(dump_json(shown))
        return
    lines = {
        "Name": details.name,
        "Aliases": ", ".join(details.aliases),
        "Kind": details.kind,
        "About": details.description,
        "Can": ", ".join(details.abilities),
        "Language": details.languages,
        "Vectors": _vectors_text(details.embedding),
        "Finds": details.embedding and details.embedding.scores and _finds_text(details.embedding),
        "Licence": details.licence,
        "Context": details.context_length and f"{details.context_length:,} tokens",
        "Weights": details.parameters
        and f"{details.parameters:,} parameters, {', '.join(details.dtypes)}",
        "Sampling": _sampling_text(details.sampling),
        "Size": human_bytes(details.bytes),
        "Source": details.source,
        "Fit": fit and f"{fit.summary}, {fit.speed_text} ±{fit.speed_error:.0%} ({fit.engine})",
        "Drafts": draft_model
        and (f"{draft_model.name} is not used: {problem}" if problem else draft_model.name),
        "Pulled": details.pulled_at,
        "Warning": details.warning,
        "Folder": details.folder or f"not installed; download it: chatlm models pull {name}",
    }
    for label, value in lines.items():
        if value:
            click.echo(f"{label:<8} {one_line(str(value), 400)}")
    for label, (file, size) in zip(_first("Files"), _files(details), strict=False):
        click.echo(f"{label:<8} {one_line(file, 60):<44} {human_bytes(size):>9}")
    for label, line in zip(_first("Template"), template.splitlines()[:12], strict=False):
        click.echo(f"{label:<8} {one_line(line, 100)}")
    if memory:
        click.echo(f"Memory   on {memory.device}, with the present settings")
        for what, size in memory.rows():
            click.echo(f"         {what:<32} {human_bytes(size):>9}")
        if not memory.fits:
            click.echo("         It does not fit.")


def _vectors_text(facts: EmbedderFacts | None) -> str:
    if facts is None:
        return ""
    shorter = f", or {', '.join(map(str, facts.shorter))}" if facts.shorter else ""
    return f"{facts.dimension} numbers{shorter}"


def _finds_text(facts: EmbedderFacts) -> str:
    return f"{facts.scores} (retrieval tasks of MTEB, nDCG@10 in %)"


def _first(label: str) -> Iterator[str]:
    """Yield a label for the first line, and nothing for the others."""
    yield label
    yield from itertools.repeat("")


def _files(details: ModelDetails) -> list[tuple[str, int]]:
    """Return the installed files, or those that the catalogue lists, with their sizes."""
    if details.folder is not None and details.installed:
        return [
            (path.relative_to(details.folder).as_posix(), path.stat().st_size)
            for path in model_files(details.folder)
        ]
    return [(name, each.bytes) for each in details.quantizations for name in each.names[:1]]


def _template(details: ModelDetails) -> str:
    """Return an installed model's own chat template; empty if it has none."""
    if details.folder is None:
        return ""
    try:
        return (details.folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _fit(details: ModelDetails) -> Fit | None:
    from chatlm.chat.model_list import fit_checker
    from chatlm.plugin_host.lifecycle import loaded_plugins

    try:
        config = load_config()
        with loaded_plugins(config) as plugins:
            return fit_checker(config, plugins).check(details)
    except (ModelError, ConfigError):  # it has no such device
        return None


def _draft_model(details: ModelDetails) -> tuple[ModelLocation | None, str]:
    """Return the model that is set to draft tokens for a local one, and why it would not."""
    config = load_config()
    if not config.draft_model or not details.installed or details.folder is None:
        return None, ""
    from chatlm.engines.devices import resolve_placement
    from chatlm.engines.draft_loading import OWN_LAYER, draft_problem

    try:
        found = (
            ModelLocation(OWN_LAYER, details.folder, "chat")
            if config.draft_model == OWN_LAYER
            else installed.find_model(config.draft_model)
        )
        placement = resolve_placement(config.device)
    except ModelError as error:
        missing = ModelLocation(config.draft_model, Path(config.draft_model), "chat")
        return missing, error.message.rstrip(".")
    problem = draft_problem(
        found.name, details.folder, found.folder, placement, config.engine, config.weights
    )
    return found, problem


def _memory_budget(details: ModelDetails, draft_model: ModelLocation | None) -> MemoryBudget | None:
    """Return what a local chat model needs with the user's settings; None if that is unknown."""
    if details.kind != "chat" or details.folder is None or not details.installed:
        return None
    from chatlm.engines.devices import resolve_placement
    from chatlm.engines.memory_plan import budget_memory
    from chatlm.engines.open import registered_runtimes
    from chatlm.plugin_host.lifecycle import loaded_plugins

    config = load_config()
    try:
        with loaded_plugins(config) as plugins:
            runtimes = registered_runtimes(plugins).keys()
        return budget_memory(
            details.name,
            details.folder,
            resolve_placement(config.device),
            engine=config.engine,
            weights=config.weights,
            kv_cache=config.kv_cache,
            context=config.context,
            refuse=False,
            runtimes=runtimes,
            draft_model=draft_model.folder
            if draft_model and draft_model.folder != details.folder
            else None,
        )
    except ModelError:  # it has no such device
        return None


@models_group.command()
@click.argument("name", shell_complete=complete_model)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Delete an installed model; a folder of your own is never deleted.

    Example: chatlm models remove smollm2-135m-instruct --yes
    """
    if not yes:
        click.confirm(f"Delete {one_line(name, 200)} from this machine?", abort=True, err=True)
    freed = installed.remove_model(name)
    click.echo(f"Removed {one_line(name, 200)}; {human_bytes(freed)} freed.")


@models_group.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def du(as_json: bool) -> None:
    """Show what models take on the disk, and what `clean` would free.

    Example: chatlm models du
    """
    used = usage.disk_usage()
    if as_json:
        click.echo(dump_json([each.to_dict() for each in used]))
        return
    print_table(
        ("SIZE", "FREED", "WHAT"),
        [
            (human_bytes(each.bytes), human_bytes(each.freed), one_line(each.name, 80))
            for each in used
        ],
    )
    click.echo(
        f"{human_bytes(sum(each.bytes for each in used))} in all; "
        f"{human_bytes(usage.free_bytes())} are free. FREED is what removing it gives back: "
        "nothing for files that another program shares."
    )


@models_group.command()
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def clean(yes: bool) -> None:
    """Delete what interrupted downloads left; models stay.

    Example: chatlm models clean --yes
    """
    left = [each for each in usage.disk_usage() if each.is_leftover]
    if not left:
        click.echo("There is nothing to clean.")
        return
    for each in left:
        click.echo(f"{human_bytes(each.bytes):>9}  {one_line(each.name, 80)}")
    if not yes:
        click.confirm("Delete this? Downloads would start again", abort=True, err=True)
    click.echo(f"{human_bytes(usage.clean())} freed.")


@models_group.command()
@click.argument("address", required=False)
def refresh(address: str | None) -> None:
    """Fetch a newer catalogue from the project's repository, or from an https ADDRESS.

    Without a network, the one that came with chatlm serves.

    Example: chatlm models refresh
    """
    from chatlm.hub.refresh import refresh_catalogue

    found = refresh_catalogue(address)
    click.echo(
        f"The catalogue of {found.date} with {found.models} "
        f"{'model' if found.models == 1 else 'models'} is stored."
        if found.is_newer
        else f"The catalogue of {found.date} is the newest there is."
    )


_SHOWN_PROBLEMS = 20


@models_group.command()
@click.argument("name", required=False, shell_complete=complete_model)
def verify(name: str | None) -> None:
    """Verify one model, or all: checksums, and tensors against the architecture.

    Example: chatlm models verify smollm2-135m-instruct
    """
    names = [name] if name else names_module.installed_names()
    damaged = 0
    for each in names:
        with pull_progress() as progress:
            found = installed.verify_model(each, progress)
        damaged += bool(found.problems)
        click.echo(f"{each}: {'damaged' if found.problems else 'OK'}")
        for line in (*found.problems[:_SHOWN_PROBLEMS], *found.notes):
            click.echo(f"  {one_line(line, 400)}")
        if more := len(found.problems[_SHOWN_PROBLEMS:]):
            click.echo(f"  … and {more:,} more")
        if found.problems:
            click.echo(f"  {one_line(found.repair, 400)}")
    if not names:
        click.echo("No models are installed. List available ones: chatlm models list")
    if damaged:
        raise click.exceptions.Exit(1)


def _sampling_text(sampling: Sampling) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in sampling.to_dict().items())
    return values and f"{values} (recommended)"


def _to_dict(details: installed.ModelDetails, fit: Fit | None) -> dict[str, Any]:
    return details.to_dict() | {"fit": fit.to_dict() if fit else None}
