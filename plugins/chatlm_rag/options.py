"""Command-line options that several commands share: the name of an index, and `--json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def complete_index(
    context: click.Context, parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    """Complete the name of an index in the shell."""
    from click.shell_completion import CompletionItem

    from chatlm_rag.index.folder import all_indices

    return [CompletionItem(each.name) for each in all_indices() if each.name.startswith(start)]


name_argument = click.argument("name", shell_complete=complete_index)
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
