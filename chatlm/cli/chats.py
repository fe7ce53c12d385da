"""The commands `chatlm chats …`: what is asked and printed; the work is in chatlm.store."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from chatlm import paths
from chatlm.errors import ChatlmError, UsageError
from chatlm.files import write_atomically
from chatlm.store import Hit, Store, Summary, export
from chatlm.text import dump_json, one_line, visible


def complete_chat(
    context: click.Context, parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    """The ids of saved chats that begin so, with their titles; none when they cannot be read."""
    if not paths.database().exists():
        return []
    try:
        with _store() as store:
            summaries = store.conversations(limit=200)
    except ChatlmError:
        return []
    return [
        CompletionItem(str(chat.id), help=one_line(chat.title, 60))
        for chat in summaries
        if str(chat.id).startswith(start)
    ]


def _store() -> Store:
    return Store(paths.database())


@click.group()
def chats() -> None:
    """List, show, search, export and delete saved chats.

    Example: chatlm chats search capital of france
    """


@chats.command("list")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_chats(limit: int | None, as_json: bool) -> None:
    """List the chats, last changed first.

    Example: chatlm chats list --limit 20
    """
    with _store() as store:
        summaries = store.conversations(limit)
    if as_json:
        click.echo(dump_json([_as_table(chat) for chat in summaries]))
        return
    if not summaries:
        click.echo("No chats are saved yet. Begin one: chatlm", err=True)
        return
    rows = [("ID", "CHANGED", "TURNS", "TITLE")]
    rows += [
        (
            str(chat.id),
            f"{chat.updated.astimezone():%Y-%m-%d %H:%M}",
            str(chat.turns),
            (one_line(chat.title, 60) or "(empty)") + ("  [unfinished]" if chat.unfinished else ""),
        )
        for chat in summaries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for number, changed, turns, title in rows:
        click.echo(f"{number:>{widths[0]}}  {changed:<{widths[1]}}  {turns:>{widths[2]}}  {title}")


def _as_table(chat: Summary) -> dict[str, object]:
    return dataclasses.asdict(chat) | {"updated": chat.updated.isoformat()}


@chats.command()
@click.argument("chat_id", metavar="ID", type=int, shell_complete=complete_chat)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with all that is kept.")
def show(chat_id: int, as_json: bool) -> None:
    """Show one chat.

    Example: chatlm chats show 12
    """
    with _store() as store:
        chat = store.conversation(chat_id)
        if as_json:
            everything = export.to_dict(chat, store.passages, store.annotations)
            click.echo(dump_json(everything))
            return
    text = visible(export.to_markdown(chat))
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    markdown = Markdown(text, hyperlinks=False)
    for token in markdown.parsed:
        for child in token.children or ():
            child.content = visible(child.content)  # Markdown reads &#x202e; as the character
    Console().print(markdown)


@chats.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def search(words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Find messages and replies that hold all the words, newest first.

    The last word may be the beginning of one. Case and accents do not count.

    Example: chatlm chats search capital of fra
    """
    query = " ".join(words)
    with _store() as store:
        hits = store.search(query, limit)
    if as_json:
        click.echo(dump_json([dataclasses.asdict(hit) for hit in hits]))
        return
    if not hits:
        click.echo(f"Nothing holds all of: {one_line(query, 200)}", err=True)
    shown = None
    for hit in hits:
        if hit.conversation_id != shown:
            title = one_line(hit.title, 60) or "(empty)"
            click.echo(click.style(f"{hit.conversation_id}  {title}", bold=True))
        shown = hit.conversation_id
        click.echo(f"    {hit.role}: {_highlighted(hit)}")


def _highlighted(hit: Hit) -> str:
    pieces, end = [], 0
    for left, right in hit.spans:
        pieces.append(visible(hit.snippet[end:left]))
        pieces.append(click.style(visible(hit.snippet[left:right]), fg="yellow", bold=True))
        end = right
    return "".join([*pieces, visible(hit.snippet[end:])])


@chats.command("export")
@click.argument("chat_ids", metavar="[ID]...", nargs=-1, type=int, shell_complete=complete_chat)
@click.option("--all", "everything", is_flag=True, help="All chats.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "jsonl", "messages"]),
    default="markdown",
    show_default=True,
    help="markdown is for reading, with control characters made visible; jsonl keeps all there "
    "is, character by character; messages is what trainers take.",
)
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def export_chats(
    chat_ids: tuple[int, ...], everything: bool, form: str, output: Path | None, force: bool
) -> None:
    """Write chats to a file, or to the output.

    Example: chatlm chats export --all --format jsonl -o chats.jsonl
    """
    if everything == bool(chat_ids):
        raise UsageError(
            "Say which chats: their ids, or --all.", hint="See the ids: chatlm chats list"
        )
    if output is not None and output.exists() and not (force and output.is_file()):
        raise UsageError(
            f"{output} exists already." if output.is_file() else f"{output} is not a plain file.",
            hint="Give another name, or replace a file with --force.",
        )
    with _store() as store:
        ids = [chat.id for chat in store.conversations()] if everything else chat_ids
        pieces = _exported(store, ids, form)
        if output is None:
            for piece in pieces:
                click.echo(piece, nl=False)
            return
        try:
            write_atomically(output, pieces)
        except OSError as error:
            raise UsageError(
                f"{output} cannot be written: {error.strerror}.",
                hint="Check the folder, its permissions and the free space.",
            ) from error
    click.echo(f"{_counted(len(ids))} written to {output}", err=True)


def _exported(store: Store, ids: tuple[int, ...] | list[int], form: str) -> Iterator[str]:
    conversations = (store.conversation(chat_id) for chat_id in ids)
    if form == "jsonl":
        yield from export.to_jsonl(conversations, store.passages, store.annotations)
    elif form == "messages":
        yield from export.to_messages(conversations)
    else:
        for number, conversation in enumerate(conversations):
            yield ("\n---\n\n" if number else "") + visible(export.to_markdown(conversation))


@chats.command()
@click.argument(
    "chat_ids", metavar="ID...", nargs=-1, required=True, type=int, shell_complete=complete_chat
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(chat_ids: tuple[int, ...], yes: bool) -> None:
    """Delete chats for good.

    Example: chatlm chats delete 12 13
    """
    ids = list(dict.fromkeys(chat_ids))
    with _store() as store:
        titles = {chat_id: export.title_of(store.conversation(chat_id)) for chat_id in ids}
        if not yes:
            for chat_id, title in titles.items():
                click.echo(f"{chat_id}  {one_line(title, 60) or '(empty)'}", err=True)
            click.confirm(f"Delete {_counted(len(ids))} for good?", abort=True, err=True)
        for chat_id in ids:
            store.delete(chat_id)
    click.echo(f"{_counted(len(ids))} deleted", err=True)


def _counted(count: int) -> str:
    return "1 chat" if count == 1 else f"{count} chats"
