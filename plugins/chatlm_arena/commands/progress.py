"""Progress and status lines of long `chatlm arena` commands, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from chatlm import one_line


@contextmanager
def explain_resuming() -> Iterator[None]:
    """Say that the work can go on later if Ctrl-C stops it."""
    try:
        yield
    except (KeyboardInterrupt, click.Abort):
        print_status(
            "Stopped. Everything done so far is saved; run the same command again to resume."
        )
        raise


def show_progress(label: str, steps: Iterator[int], total: int) -> None:
    """Run all steps, with a progress bar on a terminal or else a line for each tenth.

    Args:
        label: what is being done.
        steps: yields the number of steps done.
        total: the number of all steps.
    """
    if sys.stderr.isatty():
        with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
            for done in steps:
                bar.update(done - bar.pos)
            bar.update(total - bar.pos)
        return
    tenth = -1
    for done in steps:
        if total and done * 10 // total != tenth:
            tenth = done * 10 // total
            print_status(f"{label} {tenth * 10} %")


def print_status(text: str) -> None:
    """Print a line to stderr, on a terminal over the progress bar, which is redrawn below."""
    overwrite = "\r\x1b[K" if sys.stderr.isatty() else ""
    click.echo(overwrite + one_line(text, 120), err=True)
