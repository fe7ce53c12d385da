"""`chatlm chats list`, `show` and `search`: what is asked and printed; it changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from chatlm.cli.chats import called, complete_chat, open_store
from chatlm.cli.chats_details import details
from chatlm.messages import Conversation
from chatlm.store import Hit, Store, Summary, Trashed, export
from chatlm.text import dump_json, one_line, visible


@click.command("list")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@click.option("--deleted", is_flag=True, help="Those that can be restored, instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_chats(limit: int | None, deleted: bool, as_json: bool) -> None:
    """List the chats, pinned ones first, then last changed first.

    Example: chatlm chats list --limit 20
    """
    with open_store() as store:
        chats = store.trashed(limit) if deleted else store.conversations(limit)
    if as_json:
        click.echo(dump_json([chat.to_dict() for chat in chats]))
    elif chats:
        _print_table("DELETED" if deleted else "CHANGED", [_row(chat) for chat in chats])
        if deleted:
            click.echo("Bring one back: chatlm chats restore ID", err=True)
    else:
        nothing = "No chats are saved yet. Begin one: chatlm"
        click.echo("No deleted chat can be restored." if deleted else nothing, err=True)


def _row(chat: Summary | Trashed) -> tuple[str, str, str, str]:
    """Id, time, turns, title."""
    title = called(chat.title)
    if isinstance(chat, Summary):
        time = chat.updated
        title += "  [pinned]" * chat.pinned + "  [unfinished]" * chat.unfinished
    else:
        time = chat.deleted
    return str(chat.id), f"{time.astimezone():%Y-%m-%d %H:%M}", str(chat.turns), title


def _print_table(time: str, chats: Sequence[tuple[str, str, str, str]]) -> None:
    rows = [("ID", time, "TURNS", "TITLE"), *chats]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for number, when, turns, title in rows:
        click.echo(f"{number:>{widths[0]}}  {when:<{widths[1]}}  {turns:>{widths[2]}}  {title}")


@click.command()
@click.argument("chat_id", metavar="ID", type=int, shell_complete=complete_chat)
@click.option("--details", "detailed", is_flag=True, help="What made each reply, and its cost.")
@click.option("--trace", "traced", is_flag=True, help="What plugins did for each turn.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON with all that is kept.")
def show(chat_id: int, detailed: bool, traced: bool, as_json: bool) -> None:
    """Show one chat.

    Example: chatlm chats show 12 --details
    """
    with open_store() as store:
        chat = store.conversation(chat_id)
        if traced:
            _show_trace(chat, store, as_json)
            return
        if as_json:
            everything = export.to_dict(
                chat, store.passages, store.annotations, store.provenance, store.traces
            )
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


def _show_trace(chat: Conversation, store: Store, as_json: bool) -> None:
    from chatlm.cli.chats_trace import trace_lines, trace_values

    if as_json:
        click.echo(dump_json(trace_values(chat, store.traces)))
        return
    for line in trace_lines(chat, store.traces):
        click.echo(line)


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def search(words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Find titles, messages and replies that hold all the words.

    The last word may be the beginning of one. Case and accents do not count. NAME:VALUE asks for
    messages with a label, such as mood:anger.

    Example: chatlm chats search capital of fra
    """
    query = " ".join(words)
    with open_store() as store:
        hits = store.search(query, limit)
    if as_json:
        click.echo(dump_json([hit.to_dict() for hit in hits]))
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
