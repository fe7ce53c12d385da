"""Options and arguments that several `chatlm arena` commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from chatlm.plugin_kit.options import complete_names

F = TypeVar("F", bound=Callable[..., Any])


def _contestant_names() -> list[str]:
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        return [contestant.name for contestant in store.contestants()]


def _adapter_names() -> Sequence[str]:
    from chatlm import Adapters, service

    with service("adapters", Adapters) as adapters:
        return adapters.names()


def _index_names() -> Sequence[str]:
    from chatlm import Documents, service

    with service("documents", Documents) as documents:
        return documents.collections()


complete_adapter = complete_names(_adapter_names)
complete_index = complete_names(_index_names)
complete_contestant = complete_names(_contestant_names)
name_argument = click.argument("name", shell_complete=complete_contestant)
judge_option = click.option(
    "--judge", default="", metavar="NAME", help="Count only this judge's votes, such as human."
)


def elo_options(command: F) -> F:
    """Add `--k` and `--start` to a command, as `k: float` and `start: float`."""
    command = click.option(
        "--start", type=float, default=1500.0, help="Initial Elo rating. Default: 1500"
    )(command)
    return click.option(
        "--k", type=float, default=32.0, help="Elo's k-factor, 4 to 32. Default: 32"
    )(command)


def _rubric_names(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    from chatlm_arena.rubrics import RUBRICS

    return [name for name in RUBRICS if name.startswith(typed)]


def rubric_options(command: F) -> F:
    """Add `--rubric` and `--reasoning` to a command, as `rubric: str` and `reasoning: bool`."""
    command = click.option(
        "--reasoning", is_flag=True, help="Let judges give their reasons before the verdict."
    )(command)
    return click.option(
        "--rubric",
        default="helpful",
        metavar="NAME|FILE",
        shell_complete=_rubric_names,
        help="What judges look for; see chatlm arena rubrics. Default: helpful",
    )(command)


weighted_option = click.option(
    "--weighted", is_flag=True, help="Weigh several judges by their agreement with you."
)
