"""`chatlm chats export` and `chatlm chats import`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from chatlm.cli.chats import format_chat_count, open_store, open_to_read
from chatlm.cli.completers import complete_chat
from chatlm.config.paths import write_atomically
from chatlm.errors import ChatlmError, StoreError, UsageError
from chatlm.store.export import EXPORT_FORMATS, ExportFormat, stream_export
from chatlm.store.importing.importer import (
    IMPORT_FORMATS,
    ImportFormat,
    ImportProgress,
    import_file,
)
from chatlm.text import dump_json, escape_controls, one_line


@click.command("export")
@click.argument("chat_ids", metavar="[ID]...", nargs=-1, type=int, shell_complete=complete_chat)
@click.option("--all", "everything", is_flag=True, help="Export all chats.")
@click.option(
    "--format",
    "form",
    type=click.Choice(EXPORT_FORMATS),
    show_default="jsonl if FILE ends in .jsonl, otherwise markdown",
    help="markdown is for reading, with control characters made visible; jsonl has everything that "
    "is stored; messages is for training; chatml is the text that models read.",
)
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def export_chats(
    chat_ids: tuple[int, ...],
    everything: bool,
    form: ExportFormat | None,
    output: Path | None,
    force: bool,
) -> None:
    """Export chats to a file or to stdout.

    Example: chatlm chats export --all -o chats.jsonl
    """
    if everything == bool(chat_ids):
        raise UsageError(
            "Name the chats by id, or use --all.", hint="See the ids: chatlm chats list"
        )
    if output is not None and output.exists() and not (force and output.is_file()):
        raise UsageError(
            f"{output} already exists." if output.is_file() else f"{output} is not a regular file.",
            hint="Choose another name, or overwrite a file with --force.",
        )
    if form is None:
        form = "jsonl" if output is not None and output.suffix.lower() == ".jsonl" else "markdown"
    with open_to_read() as store:
        ids = [chat.id for chat in store.list_conversations()] if everything else chat_ids
        missing: list[StoreError] = []
        unreadable: dict[int, StoreError] = {}
        skip = unreadable.__setitem__ if everything else None
        pieces = stream_export(store, ids, form, missing.append, skip)
        if output is None:
            safe = escape_controls if sys.stdout.isatty() else str
            for piece in pieces:
                click.echo(safe(piece), nl=False)
            _report_problems(missing, unreadable)
            return
        try:
            write_atomically(output, pieces)
        except OSError as error:
            raise UsageError(
                f"{output} cannot be written: {error.strerror}.",
                hint="Check the folder, its permissions and the free space.",
            ) from error
    click.echo(f"{format_chat_count(len(ids) - len(unreadable))} written to {output}", err=True)
    _report_problems(missing, unreadable)


def _report_problems(
    missing_images: Sequence[StoreError], unreadable: Mapping[int, StoreError]
) -> None:
    """Say what was not exported; a chat that was not is a failure."""
    for error in missing_images:
        click.echo(escape_controls(f"Exported without an image. {error.message}"), err=True)
    for chat_id, error in unreadable.items():
        click.echo(escape_controls(f"Chat {chat_id} is not exported. {error}"), err=True)
    if unreadable:
        sys.exit(1)


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(IMPORT_FORMATS),
    default="auto",
    show_default=True,
    help="chatlm is its own jsonl; messages is one list of messages per line; chatgpt is the ZIP "
    "file of ChatGPT's export, or the conversations.json in it; open-webui is its export, and "
    "lm-studio one of its conversation files; auto detects the format.",
)
@click.option("--skip-bad", is_flag=True, help="Skip chats that cannot be read.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_chats(file: Path, form: ImportFormat, skip_bad: bool, as_json: bool) -> None:
    """Import chats from a file. Chats that are already stored are skipped.

    Ctrl-C stops between two chats; the same command continues from there.

    Example: chatlm chats import conversations.json
    """
    state = ImportProgress()
    with open_store() as store:
        try:
            with _progress_bar() as draw:
                for state in import_file(store, file, form, skip_bad=skip_bad):
                    draw(state)
        except (ChatlmError, KeyboardInterrupt):
            if state.added:
                click.echo(
                    f"Stopped after {format_chat_count(len(state.added))} had been imported.",
                    err=True,
                )
            raise
    if as_json:
        click.echo(dump_json(state.to_dict()))
    _print_summary(state, file, skip_bad)


def _print_summary(progress: ImportProgress, file: Path, skip_bad: bool) -> None:
    for bad in progress.unreadable:
        click.echo(
            escape_controls(f"{file.name}, {bad.location}: ") + one_line(bad.problem, 300), err=True
        )
    if progress.unreadable_count > len(progress.unreadable):
        click.echo(f"… and {progress.unreadable_count - len(progress.unreadable)} more", err=True)
    if progress.unreadable_count and progress.readable_count:
        raise UsageError(
            f"{format_chat_count(progress.unreadable_count)} in {file} cannot be read; "
            "nothing was imported.",
            hint=f"Import the rest: chatlm chats import --skip-bad {shlex.quote(str(file))}",
        )
    if not (progress.added or progress.already_stored):
        raise UsageError(
            f"{file} has no chats.", hint="See the formats: chatlm chats import --help"
        )
    skipped = f", {progress.unreadable_count} not readable" if progress.unreadable_count else ""
    there = f", {progress.already_stored} already stored" if progress.already_stored else ""
    click.echo(f"{format_chat_count(len(progress.added))} imported{there}{skipped}", err=True)
    if progress.left_out:
        parts = ", ".join(f"{what} ({number})" for what, number in progress.left_out.most_common())
        click.echo(escape_controls(f"Left out: {parts}"), err=True)


@contextmanager
def _progress_bar() -> Iterator[Callable[[ImportProgress], None]]:
    """Show a progress bar for reading the file, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description:<9}"), BarColumn(20), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("")

        def draw(state: ImportProgress) -> None:
            what = "Checking" if state.checking else "Importing"
            bars.update(task, description=what, completed=state.bytes_read, total=state.total_bytes)

        yield draw
