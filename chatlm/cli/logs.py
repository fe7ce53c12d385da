"""`chatlm logs`: print the end of the log, and follow it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click

from chatlm.config import logs as logging_setup
from chatlm.config import paths
from chatlm.text import escape_controls

POLL_SECONDS = 0.2


@click.command()
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Number of lines.",
)
@click.option(
    "-f", "--follow", is_flag=True, help="Print new lines as they are written, until Ctrl-C."
)
@click.option("--path", "only_path", is_flag=True, help="Print the path of the log file.")
def logs(lines: int, follow: bool, only_path: bool) -> None:
    """Show the log: failures and where they happened.

    It never has the content of a chat.

    Example: chatlm logs -n 20 --follow
    """
    newest = paths.log_file()
    if only_path:
        click.echo(newest)
        return
    kept = b"".join(_read(file) for file in _log_files(newest)).splitlines()
    if not kept and not follow:
        click.echo(f"The log is empty: {newest}", err=True)
    for line in kept[len(kept) - min(lines, len(kept)) :]:
        click.echo(_printable(line))
    if follow:
        for piece in _follow(newest):
            click.echo(_printable(piece), nl=False)


def _log_files(newest: Path) -> Iterator[Path]:
    """Yield the log files, oldest first."""
    for number in range(logging_setup.BACKUP_COUNT, 0, -1):
        yield newest.with_name(f"{newest.name}.{number}")
    yield newest


def _printable(text: bytes) -> str:
    return escape_controls(text.decode("utf-8", "replace"))


def _read(file: Path, start: int = 0) -> bytes:
    try:
        with file.open("rb") as stream:
            stream.seek(start)
            return stream.read()
    except OSError:
        return b""


def _follow(file: Path) -> Iterator[bytes]:
    """Yield the whole lines that are added to the file from now on, also after a rotation."""
    end = len(_read(file))
    while True:
        time.sleep(POLL_SECONDS)
        if len(_read(file)) < end:
            end = 0
        added, newline, _ = _read(file, end).rpartition(b"\n")
        if newline:
            end += len(added) + 1
            yield added + newline
