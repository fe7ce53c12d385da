"""The commands `chatlm memory …` and `chatlm sandbox`."""

from __future__ import annotations

from dataclasses import asdict

import click

from chatlm import dump_json, one_line
from chatlm.plugin_kit.options import json_option
from chatlm_tools.memory import Fact, user_memory


@click.group()
def memory() -> None:
    """List, add, edit and delete the facts that models may remember across chats.

    Example: chatlm memory list
    """


@memory.command("list")
@json_option
def list_facts(as_json: bool) -> None:
    """List all facts with their numbers.

    Example: chatlm memory list
    """
    facts = user_memory().facts()
    if as_json:
        click.echo(dump_json([asdict(fact) for fact in facts]))
        return
    for fact in facts:
        _show(fact)
    if not facts:
        click.echo("Nothing is remembered.")


@memory.command()
@click.argument("text")
def add(text: str) -> None:
    """Add a fact.

    Example: chatlm memory add "I write in British English."
    """
    _show(user_memory().add(text))


@memory.command()
@click.argument("number", type=int)
@click.argument("text")
def edit(number: int, text: str) -> None:
    """Change a fact.

    Example: chatlm memory edit 3 "My sister is called Ada."
    """
    _show(user_memory().edit(number, text))


@memory.command()
@click.argument("number", type=int)
def delete(number: int) -> None:
    """Delete a fact.

    Example: chatlm memory delete 3
    """
    click.echo(f"Deleted: {one_line(user_memory().delete(number).text, 500)}")


@click.command()
@json_option
def sandbox(as_json: bool) -> None:
    """Show which sandbox this machine has for programs that models run.

    The exit code is 1 if nothing does, and no program is run.

    Example: chatlm sandbox
    """
    from chatlm_tools.sandbox.sandbox import available_tier

    tier, reasons = available_tier()
    if as_json:
        click.echo(dump_json({"tier": tier, "missing": reasons.splitlines()}))
    else:
        click.echo(f"Programs are contained by {tier}." if tier else "No program can be run.")
        for reason in reasons.splitlines():
            click.echo(f"Not available: {one_line(reason, 300)}")
    if tier is None:
        raise click.exceptions.Exit(1)


def _show(fact: Fact) -> None:
    click.echo(f"{fact.id:>3}  {one_line(fact.text, 500)}  ({one_line(fact.saved, 20)})")
