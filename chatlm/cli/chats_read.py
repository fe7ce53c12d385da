"""`chatlm chats list`, `show` and `search`: what is asked and printed; it changes nothing."""

from __future__ import annotations

import dataclasses
import sys

import click

from chatlm.cli.chats import called, complete_chat, open_store
from chatlm.cli.chats_details import details
from chatlm.store import Hit, Summary, export
from chatlm.text import dump_json, one_line, visible


@click.command("list")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_chats(limit: int | None, as_json: bool) -> None:
    """List the chats, pinned ones first, then last changed first.

    Example: chatlm chats list --limit 20
    """
    with open_store() as store:
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
            called(chat.title) + "  [pinned]" * chat.pinned + "  [unfinished]" * chat.unfinished,
        )
        for chat in summaries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for number, changed, turns, title in rows:
        click.echo(f"{number:>{widths[0]}}  {changed:<{widths[1]}}  {turns:>{widths[2]}}  {title}")


def _as_table(chat: Summary) -> dict[str, object]:
    return dataclasses.asdict(chat) | {"updated": chat.updated.isoformat()}


@click.command()
@click.argument("chat_id", metavar="ID", type=int, shell_complete=complete_chat)
@click.option("--details", "detailed", is_flag=True, help="What made each reply, and its cost.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON with all that is kept.")
def show(chat_id: int, detailed: bool, as_json: bool) -> None:
    """Show one chat.

    Example: chatlm chats show 12 --details
    """
    with open_store() as store:
        chat = store.conversation(chat_id)
        if as_json:
            everything = export.to_dict(chat, store.passages, store.annotations, store.provenance)
            click.echo(dump_json(everything))
            return
        if detailed:
            for line in details(chat, store.provenance):
                click.echo(visible(line))
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


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def search(words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Find titles, messages and replies that hold all the words.

    The last word may be the beginning of one. Case and accents do not count.

    Example: chatlm chats search capital of fra
    """
    query = " ".join(words)
    with open_store() as store:
        hits = store.search(query, limit)
    if as_json:
        click.echo(dump_json([dataclasses.asdict(hit) for hit in hits]))
        return
    if not hits:
        click.echo(f"Nothing holds all of: {one_line(query, 200)}", err=True)
    shown = None
    for hit in hits:
        if hit.conversation_id != shown:
            title = click.style(called(hit.title), bold=True) if hit.role else _highlighted(hit)
            click.echo(click.style(f"{hit.conversation_id}  ", bold=True) + title)
        if hit.role:
            click.echo(f"    {hit.role}: {_highlighted(hit)}")
        shown = hit.conversation_id


def _highlighted(hit: Hit) -> str:
    pieces, end = [], 0
    for left, right in hit.spans:
        pieces.append(visible(hit.snippet[end:left]))
        pieces.append(click.style(visible(hit.snippet[left:right]), fg="yellow", bold=True))
        end = right
    return "".join([*pieces, visible(hit.snippet[end:])])
