"""Click options and arguments that commands of several plugins have: `--json`, completed names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from chatlm.errors import ChatlmError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

NameCompleter = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]
"""A click callback that completes an argument or option value in the shell."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""Decorator that adds `--json` to a command, as the parameter `as_json`.

    @click.command()
    @json_option
    def list_recipes(as_json: bool) -> None: ...
"""


def complete_names(list_names: Callable[[], Iterable[str]]) -> NameCompleter:
    """Return a `shell_complete` callback that offers the names starting with the typed text.

        click.option("--recipe", shell_complete=complete_names(recipe_names))

    Args:
        list_names: returns all names; called only while the shell completes. A `ChatlmError` that
            it raises means that there is nothing to offer.
    """

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        try:
            names = list(list_names())
        except ChatlmError:
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    return complete
