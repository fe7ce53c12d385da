"""Tables on the command line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence

import click


def print_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> None:
    """Print rows in columns; on a terminal, what does not fit the last one is cut off."""
    rows = [head, *body]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]])[:columns].rstrip())
