"""The commands `chatlm models …`."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import click

from chatlm.cli.command_groups import ExtensibleGroup
from chatlm.cli.completers import complete_model
from chatlm.config.config import load_config
from chatlm.errors import ConfigError, ModelError
from chatlm.hub import installed
from chatlm.hub import names as names_module
from chatlm.hub import pull as pull_module
from chatlm.hub.disk import human_bytes
from chatlm.hub.installed import ModelDetails
from chatlm.plugin_kit.progress import pull_progress
from chatlm.text import dump_json, escape_controls, one_line
from chatlm.types.memory import MemoryBudget
from chatlm.types.sampling import Sampling


@click.group("models", cls=ExtensibleGroup)
def models_group() -> None:
    """List, pull, check and remove models.

    Example: chatlm models pull smollm2-135m-instruct
    """


@models_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> None:
    """List the models of the catalogue and all installed ones.

    Example: chatlm models list --json
    """
    known = [*installed.list_known_models(), *_plugin_models()]
    if as_json:
        click.echo(dump_json([_to_dict(details) for details in known]))
        return
    rows = [("NAME", "KIND", "INSTALLED", "SIZE", "SOURCE", "DESCRIPTION")]
    rows += [
        (
            one_line(details.name, 48),
            details.kind,
            "yes" if details.installed else "no",
            human_bytes(details.bytes) if details.bytes else "-",
            one_line(details.source, 40),
            one_line(details.summary, 70),
        )
        for details in known
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]])[:columns].rstrip())


@models_group.command()
@click.argument("name", shell_complete=complete_model)
@click.option("--force", is_flag=True, help="Download again even if installed.")
def pull(name: str, force: bool) -> None:
    """Download a model: a catalogue name, a Hugging Face id (ORG/NAME), or a .gguf file.

    Example: chatlm models pull smollm2-135m-instruct
    """
    with pull_progress() as progress:
        location = pull_module.pull_model(name, progress, force=force)
    click.echo(f"{location.name} is ready in {location.folder}")
    if warning := installed.describe_model(location.name).warning:
        click.echo(escape_controls(f"Warning: {warning}"), err=True)


@models_group.command()
@click.argument("name", shell_complete=complete_model)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show what is known about one model.

    Example: chatlm models show smollm2-135m-instruct
    """
    details = installed.describe_model(name)
    memory = _memory_budget(details)
    if as_json:
        shown = _to_dict(details) | {"memory": memory.to_dict() if memory else None}
        click.echo(dump_json(shown))
        return
    lines = {
        "Name": details.name,
        "Kind": details.kind,
        "About": details.description,
        "Licence": details.licence,
        "Context": details.context_length and f"{details.context_length:,} tokens",
        "Weights": details.parameters
        and f"{details.parameters:,} parameters, {', '.join(details.dtypes)}",
        "Sampling": _sampling_text(details.sampling),
        "Size": human_bytes(details.bytes),
        "Source": details.source,
        "Pulled": details.pulled_at,
        "Warning": details.warning,
        "Folder": details.folder or f"not installed; download it: chatlm models pull {name}",
    }
    for label, value in lines.items():
        if value:
            click.echo(f"{label:<8} {one_line(str(value), 400)}")
    if memory:
        click.echo(f"Memory   on {memory.device}, with the present settings")
        for what, size in memory.rows():
            click.echo(f"         {what:<32} {human_bytes(size):>9}")
        if not memory.fits:
            click.echo("         It does not fit.")


def _memory_budget(details: ModelDetails) -> MemoryBudget | None:
    """Return what a local chat model needs with the user's settings; None if that is unknown."""
    if details.kind != "chat" or details.folder is None or not details.installed:
        return None
    from chatlm.engines.devices import resolve_placement
    from chatlm.engines.memory_plan import budget_memory

    config = load_config()
    try:
        return budget_memory(
            details.name,
            details.folder,
            resolve_placement(config.device),
            engine=config.engine,
            weights=config.weights,
            kv_cache=config.kv_cache,
            context=config.context,
            refuse=False,
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


def _plugin_models() -> list[installed.ModelDetails]:
    """Return the models of the plugins' engines; failures are printed to stderr."""
    from chatlm.chat.model_list import list_plugin_models
    from chatlm.config import config
    from chatlm.plugin_host.lifecycle import loaded_plugins

    try:
        with loaded_plugins(config.load()) as plugins:
            listed = list_plugin_models(plugins)
    except ConfigError as error:
        click.echo(escape_controls(f"Models of plugins are left out. {error}"), err=True)
        return []
    for fault in listed.faults:
        click.echo(escape_controls(str(fault)), err=True)
    return list(listed.models)


def _to_dict(details: installed.ModelDetails) -> dict[str, Any]:
    return details.to_dict()
