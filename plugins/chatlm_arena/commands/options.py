"""What several commands take: names, completed by the shell, `--json`, and who judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


F = TypeVar("F", bound=Callable[..., Any])


def complete_contestant(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of contestants that begin so; none when the arena cannot be read."""
    from click.shell_completion import CompletionItem

    from chatlm import ChatlmError
    from chatlm_arena.store import store as store_module

    try:
        with store_module.open_arena_store() as store:
            names = [contestant.name for contestant in store.contestants()]
    except ChatlmError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


name_argument = click.argument("name", shell_complete=complete_contestant)


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


judge_option = click.option(
    "--judge", default="", metavar="NAME", help="Count only this judge's votes, such as human."
)


def elo_options(command: F) -> F:
    """Give a command `--k` and `--start`, as `k: float` and `start: float`."""
    command = click.option(
        "--start", type=float, default=1500.0, help="Elo's first rating. Default: 1500"
    )(command)
    return click.option("--k", type=float, default=32.0, help="Elo's k, 4 to 32. Default: 32")(
        command
    )
