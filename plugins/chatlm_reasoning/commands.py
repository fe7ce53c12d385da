"""The commands `chatlm reason …`."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import click

from chatlm import (
    Delta,
    Finished,
    ReplyMethod,
    Sampling,
    Setup,
    SideChats,
    Usage,
    UsageError,
    dump_json,
    escape_controls,
    load_config,
    side_chats,
)
from chatlm.plugin_kit.options import json_option
from chatlm.plugin_kit.progress import status_lines
from chatlm_reasoning.plugin import register_methods

PLAIN = "off"
"""The method of a reply that is made in one go."""


@dataclass
class Comparison:
    """The reply of one method, and what it cost."""

    method: str
    text: str = ""
    stop_reason: str = ""
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "method": self.method,
            "text": self.text,
            "stop_reason": self.stop_reason,
            "seconds": round(self.seconds, 3),
            **self.usage.to_dict(),
        }


@click.group()
def reason() -> None:
    """Spend more computation on an answer: chain of thought, consensus and tree of thought.

    Use a method with --method, /set method, in a template, or as a contestant in the arena.

    Example: chatlm ask --method consensus:9 "What is 17 * 23?"
    """


@reason.command("list")
@json_option
def list_methods(as_json: bool) -> None:
    """List the methods.

    Example: chatlm reason list
    """
    methods = _methods()
    if as_json:
        rows = [
            {"name": each.name, "argument": each.argument, "help": each.help} for each in methods
        ]
        click.echo(dump_json(rows))
        return
    for each in methods:
        name = each.name + (f":{each.argument.strip('[]')}" if each.argument else "")
        click.echo(f"{name:<20}{each.help}")


@reason.command()
@click.argument("question")
@click.option(
    "-m", "--model", default="", metavar="NAME", help="Model; the configured one if left out."
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="METHOD",
    help="Method to compare, such as consensus:9; repeatable. All if left out.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=1,
    show_default=True,
    help="Seed of all replies.",
)
@click.option("--max-tokens", type=click.IntRange(1), help="Limit of each generation.")
@json_option
def compare(
    question: str,
    model: str,
    methods: tuple[str, ...],
    seed: int,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Answer a question by each method, and show what each costs.

    Example: chatlm reason compare "Ann has 3 bags of 12 apples and eats 5. How many are left?"
    """
    if not question.strip():
        raise UsageError("The question is empty.")
    names = methods or (PLAIN, *(each.name for each in _methods()))
    settings = [Sampling(method=name, seed=seed, max_tokens=max_tokens) for name in names]
    results = []
    with side_chats(load_config(), status_lines()) as chats:
        for sampling in settings:
            result = _answer(chats, Setup(model=model, sampling=sampling), question)
            results.append(result)
            if not as_json:
                _print(result)
    if as_json:
        click.echo(dump_json([result.to_dict() for result in results]))


def _methods() -> list[ReplyMethod]:
    found: list[ReplyMethod] = []
    register_methods(found.append)
    return found


def _answer(chats: SideChats, setup: Setup, question: str) -> Comparison:
    result = Comparison(setup.sampling.method or PLAIN)
    chat = chats.begin(setup)
    request = chat.request(question)
    chat.engine  # noqa: B018 - loading it is no part of the method's time
    started = time.perf_counter()
    with closing(chat.stream(request)) as events:
        for event in events:
            if isinstance(event, Delta):
                result.text += event.answer
            elif isinstance(event, Finished):
                result.usage, result.stop_reason = event.usage, str(event.stop_reason)
    result.seconds = time.perf_counter() - started
    return result


def _print(result: Comparison) -> None:
    usage = result.usage
    read = usage.prompt_tokens - usage.cached_tokens
    click.echo(
        f"{result.method}: {usage.completion_tokens:,} tokens generated, {read:,} read, "
        f"in {result.seconds:.1f} seconds"
    )
    for line in escape_controls(result.text.strip()).splitlines() or ["(no answer)"]:
        click.echo(f"  {line}")
    click.echo()
