"""The commands `chatlm arena contestants …`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from chatlm import (
    ChatlmError,
    ModelError,
    Sampling,
    Setup,
    UsageError,
    dump_json,
    escape_controls,
    load_config,
    one_line,
)
from chatlm.plugin_kit.options import json_option
from chatlm_arena.commands.options import complete_adapter, complete_index
from chatlm_arena.commands.options import name_argument as _name
from chatlm_arena.contestants import Contestant, index_of, with_index

F = TypeVar("F", bound=Callable[..., Any])

_SETUP_OPTIONS = (
    click.option("--model", metavar="NAME", help="Model name, as for chatlm --model."),
    click.option("--adapter", metavar="NAME", shell_complete=complete_adapter,
                 help="LoRA adapter; list them: chatlm adapters list"),
    click.option("--template", metavar="NAME", help="Template; list them: chatlm templates list"),
    click.option("-v", "--variable", "pairs", multiple=True, metavar="NAME=TEXT",
                 help="Set a variable of the template; repeatable."),
    click.option("--index", metavar="NAME", shell_complete=complete_index,
                 help="Document index; list them: chatlm rag list"),
    click.option("--system", metavar="TEXT", help="System prompt."),
    click.option("--tools", metavar="NAMES",
                 help="Tools and groups it may call, with commas between; what would have to be "
                 "asked about is denied. List them: chatlm tools list"),
    click.option("-s", "--sampling", "settings", multiple=True, metavar="NAME=VALUE",
                 help="Sampling setting, such as temperature=0.2; repeatable."),
)  # fmt: skip


def _setup_options(command: F) -> F:
    for option in reversed(_SETUP_OPTIONS):
        command = option(command)
    return command


@click.group()
def contestants() -> None:
    """Add, list, edit and remove contestants: named set-ups to compare.

    Example: chatlm arena contestants add cold --model smollm2-135m-instruct -s temperature=0.2
    """


@contestants.command()
@click.argument("name")
@_setup_options
def add(name: str, **setup_options: Any) -> None:
    """Add a contestant: a model, optionally with an adapter, template, index and so on.

    Without --model, the contestant uses the default model.

    Example: chatlm arena contestants add pirate --adapter pirate
    """
    from chatlm_arena.store import store as store_module

    setup = _apply_options(with_index(Setup(), ""), **setup_options)
    _check_setup(name, setup)
    with store_module.open_arena_store() as store:
        added = store.add_contestant(name, setup)
    click.echo(escape_controls(f"Added {added.name}: {added.description}"))


@contestants.command("list")
@json_option
def list_contestants(as_json: bool) -> None:
    """List the contestants with their set-ups.

    Example: chatlm arena contestants list
    """
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        all_contestants = store.contestants()
    if as_json:
        click.echo(dump_json([_contestant_dict(contestant) for contestant in all_contestants]))
        return
    if not all_contestants:
        click.echo("No contestants yet. Add two: chatlm arena contestants add NAME --model …")
    width = max((len(contestant.name) for contestant in all_contestants), default=0)
    for contestant in all_contestants:
        click.echo(escape_controls(f"{contestant.name:<{width}}  {contestant.description}"))


@contestants.command()
@_name
@click.option("--rename", metavar="NAME", help="New name; the votes are kept.")
@_setup_options
def edit(name: str, rename: str | None, **setup_options: Any) -> None:
    """Change a contestant. Options left out keep their value; '' removes one.

    If the set-up changes, earlier votes no longer count, since they were for the old one.

    Example: chatlm arena contestants edit cold -s temperature=0.1
    """
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        old = store.contestant(name)
        setup = _apply_options(old.setup or Setup(), **setup_options)
        if setup != (old.setup or Setup()):
            _check_setup(name, setup)
            lost = store.edit_contestant(name, setup)
            if lost:
                click.echo(f"Its {lost:,} earlier votes no longer count, since the set-up changed.")
        if rename is not None:
            store.rename_contestant(name, rename)
        now = store.contestant(name if rename is None else rename.strip())
    click.echo(escape_controls(f"{now.name}: {now.description}"))


@contestants.command()
@_name
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Remove a contestant; its votes no longer count.

    Example: chatlm arena contestants remove cold --yes
    """
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        store.contestant(name)
        if not yes:
            click.confirm(f"Remove {one_line(name, 60)} and its votes?", abort=True, err=True)
        lost = store.remove_contestant(name)
    click.echo(escape_controls(f"Removed {name}" + (f" and its {lost:,} votes." if lost else ".")))


def _apply_options(
    setup: Setup,
    *,
    model: str | None,
    adapter: str | None,
    template: str | None,
    pairs: Sequence[str],
    index: str | None,
    system: str | None,
    tools: str | None,
    settings: Sequence[str],
) -> Setup:
    """Return the set-up with the given options changed."""
    values = dict(setup.values) | dict(_split_assignment(pair, "-v NAME=TEXT") for pair in pairs)
    sampling = setup.sampling.to_dict()
    for setting in settings:
        key, text = _split_assignment(setting, "-s temperature=0.2")
        sampling[key] = _parse_value(key, text)
    setup = dataclasses.replace(
        setup,
        model=setup.model if model is None else model,
        adapter=setup.adapter if adapter is None else adapter,
        template=setup.template if template is None else template,
        system=setup.system if system is None else system,
        tools=setup.tools if tools is None else _split(tools),
        values={key: value for key, value in values.items() if value},
        sampling=Sampling.from_dict(
            {key: value for key, value in sampling.items() if value is not None}
        ),
    )
    return setup if index is None else with_index(setup, index)


def _split_assignment(text: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{one_line(text, 60)!r} has no =.", hint=f"Example: {example}")
    return name.strip(), value


def _parse_value(name: str, text: str) -> Any:
    """Parse the value of a sampling setting; None removes the setting."""
    if name == "stop" or not text:
        return (text,) if text else None
    try:
        return json.loads(text)
    except ValueError:
        raise UsageError(
            f"{one_line(name, 40)} must be a number, not {one_line(text, 40)!r}.",
            hint="Example: -s temperature=0.2",
        ) from None


def _check_setup(name: str, setup: Setup) -> None:
    """Check that a set-up can answer; a model that is not installed yet is only noted."""
    from chatlm import side_chats

    try:
        with side_chats(load_config(), lambda words: None) as chats:
            chats.begin(setup).check()
    except ModelError as error:
        click.echo(escape_controls(f"Note: {error.message} {error.hint}"), err=True)
    except ChatlmError as error:
        next_step, _, _ = error.hint.partition("\n")  # the other lines apply to a chat only
        raise UsageError(
            f"{one_line(name, 60)} could not answer. {error.message}", hint=next_step
        ) from error


def _contestant_dict(contestant: Contestant) -> dict[str, Any]:
    setup = contestant.setup
    return {
        "name": contestant.name,
        "setup": setup.to_dict() if setup else None,
        "index": index_of(setup) if setup else "",
    }


def _split(names: str) -> tuple[str, ...]:
    """Return names that have commas between."""
    return tuple(filter(None, (name.strip() for name in names.split(","))))
