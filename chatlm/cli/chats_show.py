"""`chatlm chats list`, `show` and `search`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import click

from chatlm.chat.word_diff import DiffSegment, diff_words
from chatlm.cli.chats import format_title, open_to_read
from chatlm.cli.completers import complete_chat
from chatlm.config import config
from chatlm.errors import UsageError
from chatlm.store import export
from chatlm.store.export import display_title
from chatlm.store.queries import ChatListEntry, TrashEntry
from chatlm.store.rows import ProvenanceLookup, TraceLookup
from chatlm.store.search import ChatSearchHit, SearchedPart
from chatlm.store.store import Store
from chatlm.text import dump_json, escape_controls, one_line
from chatlm.types.conversations import ContextPolicy, Conversation, Turn
from chatlm.types.parts import summarise_parts
from chatlm.types.provenance import (
    Call,
    Change,
    Provenance,
    Trace,
    describe_old_weights,
    format_duration,
)
from chatlm.types.replies import Reply


@click.command("list")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="List only the newest N.")
@click.option("--deleted", is_flag=True, help="List the trash instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_chats(limit: int | None, deleted: bool, as_json: bool) -> None:
    """List the chats, pinned ones first, then last changed first.

    Example: chatlm chats list --limit 20
    """
    with open_to_read() as store:
        chats = store.list_trash(limit) if deleted else store.list_conversations(limit)
    if as_json:
        click.echo(dump_json([chat.to_dict() for chat in chats]))
    elif chats:
        _print_table("DELETED" if deleted else "CHANGED", [_chat_row(chat) for chat in chats])
        if deleted:
            click.echo("Restore one: chatlm chats restore ID", err=True)
    else:
        nothing = "There are no saved chats yet. Start one: chatlm"
        click.echo("The trash is empty." if deleted else nothing, err=True)


def _chat_row(chat: ChatListEntry | TrashEntry) -> tuple[str, str, str, str]:
    """Format the columns: id, time, turns, title."""
    title = format_title(chat.title)
    if isinstance(chat, ChatListEntry):
        time = chat.updated
        title += "  [pinned]" * chat.pinned + "  [unfinished]" * chat.unfinished
    else:
        time = chat.deleted
    return str(chat.id), f"{time.astimezone():%Y-%m-%d %H:%M}", str(chat.turns), title


def _print_table(time_heading: str, chats: Sequence[tuple[str, str, str, str]]) -> None:
    rows = [("ID", time_heading, "TURNS", "TITLE"), *chats]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for number, when, turns, title in rows:
        click.echo(f"{number:>{widths[0]}}  {when:<{widths[1]}}  {turns:>{widths[2]}}  {title}")


@click.command()
@click.argument("chat_id", metavar="ID", type=int, shell_complete=complete_chat)
@click.option(
    "--details", "detailed", is_flag=True, help="Show the provenance and cost of each reply."
)
@click.option("--trace", "traced", is_flag=True, help="Show what plugins did for each turn.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON with everything that is stored.")
def show(chat_id: int, detailed: bool, traced: bool, as_json: bool) -> None:
    """Show one chat.

    Example: chatlm chats show 12 --details
    """
    with open_to_read() as store:
        chat = store.conversation(chat_id)
        if traced:
            _print_trace(chat, store, as_json)
            return
        if as_json:
            everything = export.conversation_to_dict(
                chat, store.passages, store.annotations, store.provenance, store.traces
            )
            click.echo(dump_json(everything))
            return
        if detailed:
            for line in detail_lines(chat, store.provenance):
                click.echo(escape_controls(line))
            return
        missing = export.missing_images(store, chat)
    if sys.stdout.isatty():
        _print_markdown(chat, missing)
    else:
        click.echo(escape_controls(export.to_markdown(chat, missing)), nl=False)


def _print_markdown(chat: Conversation, missing_images: Collection[str]) -> None:
    """Print a chat on a terminal, its reasoning dimmed."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.styled import Styled

    console = Console()
    blocks = export.markdown_blocks(chat, missing_images)
    for place, (is_reasoning, group) in enumerate(groupby(blocks, attrgetter("is_reasoning"))):
        text = escape_controls("\n\n".join(block.text for block in group))
        markdown = Markdown(text, hyperlinks=False)
        for token in markdown.parsed:
            for child in token.children or ():
                child.content = escape_controls(
                    child.content
                )  # Markdown reads &#x202e; as the character
        if place:
            console.print()
        console.print(Styled(markdown, "dim") if is_reasoning else markdown)


def _print_trace(chat: Conversation, store: Store, as_json: bool) -> None:

    if as_json:
        click.echo(dump_json(trace_to_dicts(chat, store.traces)))
        return
    for line in trace_lines(chat, store.traces):
        click.echo(line)


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N")
@click.option("--reasoning", is_flag=True, help="Search the reasoning of replies instead.")
@click.option(
    "--calls", is_flag=True, help="Search calls of tools and their results, and nothing else."
)
@click.option(
    "--meaning", is_flag=True, help="Search messages and replies by meaning instead of words."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def search(
    words: tuple[str, ...],
    limit: int,
    reasoning: bool,
    calls: bool,
    meaning: bool,
    as_json: bool,
) -> None:
    """Search titles, messages, replies and calls of tools for all of the given words.

    The last word may be a prefix. Case and accents are ignored. NAME:VALUE finds messages with a
    label, such as mood:anger.

    Example: chatlm chats search capital of fra
    """
    query = " ".join(words)
    if meaning:
        if reasoning or calls:
            raise UsageError("--meaning searches messages and replies, not reasoning or calls.")
        _show_hits(_search_by_meaning(query, limit), f"similar to: {query}", as_json)
        return
    with open_to_read() as store:
        chosen: dict[SearchedPart, bool] = {"reasoning": reasoning, "tools": calls}
        parts = [part for part, is_chosen in chosen.items() if is_chosen] or ["text", "tools"]
        hits = [hit for part in parts for hit in store.search(query, limit, part=part)][:limit]
    _show_hits(hits, f"with all of: {query}", as_json)


def _search_by_meaning(query: str, limit: int) -> list[ChatSearchHit]:
    from chatlm.chat.meaning_search import find_embedder, search_by_meaning
    from chatlm.plugin_host.lifecycle import loaded_plugins
    from chatlm.plugin_kit.progress import progress_bar

    with loaded_plugins(config.load()) as plugins, open_to_read() as store:
        embedder = find_embedder(plugins)
        with progress_bar() as bar:
            return search_by_meaning(
                store,
                embedder,
                query,
                limit,
                progress=lambda done, total: bar.update(done, total, "reading new messages"),
            )


def _show_hits(hits: Sequence[ChatSearchHit], wanted: str, as_json: bool) -> None:
    """Print what was found.

    Args:
        hits: the hits.
        wanted: what was looked for, behind `Nothing found`.
        as_json: print JSON.
    """
    if as_json:
        click.echo(dump_json([hit.to_dict() for hit in hits]))
        return
    if not hits:
        click.echo(f"Nothing found {one_line(wanted, 200)}", err=True)
    shown = None
    for hit in hits:
        if hit.conversation_id != shown:
            title = (
                click.style(format_title(hit.title), bold=True) if hit.role else _highlight_hit(hit)
            )
            click.echo(click.style(f"{hit.conversation_id}  ", bold=True) + title)
        if hit.role:
            what = {"reasoning": ", reasoning", "tools": ", call of a tool"}.get(hit.part, "")
            where = f"{hit.role}{what}"
            click.echo(f"    {where}: {_highlight_hit(hit)}")
        shown = hit.conversation_id


def _highlight_hit(hit: ChatSearchHit) -> str:
    pieces, end = [], 0
    for left, right in hit.spans:
        pieces.append(escape_controls(hit.snippet[end:left]))
        pieces.append(click.style(escape_controls(hit.snippet[left:right]), fg="yellow", bold=True))
        end = right
    return "".join([*pieces, escape_controls(hit.snippet[end:])])


_TEXT_WIDTH = 72


def detail_lines(conversation: Conversation, provenance: ProvenanceLookup) -> Iterator[str]:
    """Yield each turn with all versions of its reply, as lines that are not yet escaped."""
    yield f"{conversation.id}  {one_line(display_title(conversation), _TEXT_WIDTH)}"
    for turn in conversation.turns:
        policy = "" if turn.context_policy is ContextPolicy.AUTO else f"  [{turn.context_policy}]"
        yield ""
        yield f"Turn {turn.position + 1}: {one_line(turn.display_text, _TEXT_WIDTH)}{policy}"
        if not turn.replies:
            yield "  no reply"
        for reply in turn.replies:
            shown = ", shown" if reply is turn.reply and len(turn.replies) > 1 else ""
            yield f"  Version {reply.version}{shown}: {one_line(reply.text, _TEXT_WIDTH)}".rstrip()
            for name, value in _reply_facts(reply, provenance(reply.id)):
                yield f"    {name:<15} {one_line(value, 300)}"


def _reply_facts(reply: Reply, provenance: Provenance | None) -> Iterator[tuple[str, str]]:
    usage = reply.usage
    if not reply.is_plain:
        yield "parts", summarise_parts(reply.parts)
    if thought := reply.thoughts.cost:
        yield "thought", thought
    yield "stopped", reply.stop_reason.replace("_", " ") if reply.stop_reason else "cut off"
    if reply.error:
        yield "error", reply.error
    if usage.prompt_tokens or usage.completion_tokens:
        reused = f"(of these {usage.cached_tokens} reused)"
        yield "tokens", f"{usage.completion_tokens}, prompt {usage.prompt_tokens} {reused}"
    if usage.tokens_per_second is not None:
        yield "speed", f"{usage.tokens_per_second:.1f} tokens/s"
    if usage.first_token_seconds is not None:
        yield "first token", f"after {usage.first_token_seconds:.2f} s"
    by_plugin = provenance is not None and not provenance.model
    author = f"the plugin {reply.plugin}" if reply.plugin else "a plugin"
    yield "model", f"none, the reply came from {author}" if by_plugin else reply.model or "unknown"
    yield "adapter", reply.adapter or "none"
    settings = reply.sampling
    yield "seed", str(settings.pop("seed", "unknown"))
    if settings:
        yield "sampling", ", ".join(f"{name} {value}" for name, value in settings.items())
    yield "created", f"{reply.created.astimezone():%Y-%m-%d %H:%M:%S}"
    if provenance is None:
        yield "provenance", "not stored"
        return
    if provenance.model:
        yield "prompt format", provenance.prompt_format or "unknown"
        yield "prompt hash", provenance.prompt_hash or "unknown"
        weights = describe_old_weights(provenance.weights)
        kv_cache = provenance.kv_cache and f"KV cache {provenance.kv_cache}"
        facts = filter(None, (provenance.device, weights, kv_cache))
        yield "device", ", ".join(facts) or "unknown"
        yield "context", f"{provenance.context_length} tokens"
    if provenance.versions:
        yield (
            "versions",
            ", ".join(f"{name} {value}" for name, value in provenance.versions.items()),
        )
    if provenance.plugin_processors:
        yield "added", ", ".join(provenance.plugin_processors)


_NAME_WIDTH, _HOOK_WIDTH = 16, 20


_INDENT = " " * 14


def trace_lines(conversation: Conversation, traces: TraceLookup) -> Iterator[str]:
    """Yield each turn with every call of a plugin, as lines that are safe for a terminal."""
    yield f"{conversation.id}  {one_line(display_title(conversation), _TEXT_WIDTH)}"
    for turn in conversation.turns:
        yield ""
        yield f"Turn {turn.position + 1}: {one_line(turn.display_text, _TEXT_WIDTH)}"
        found = traces(turn.id)
        if not found:
            yield "  no plugin was called"
        for trace in found:
            yield f"  {_trace_heading(turn, trace)}, {format_duration(trace.seconds)}"
            for call in trace.calls:
                yield from _call_lines(call)


def trace_to_dicts(conversation: Conversation, traces: TraceLookup) -> list[dict[str, Any]]:
    """Convert the traces to JSON values, one object for each message and each reply."""
    return [
        {"turn": turn.position + 1, "version": _version_number(turn, trace), **trace.to_dict()}
        for turn in conversation.turns
        for trace in traces(turn.id)
    ]


def _version_number(turn: Turn, trace: Trace) -> int | None:
    return next((reply.version for reply in turn.replies if reply.id == trace.reply_id), None)


def _trace_heading(turn: Turn, trace: Trace) -> str:
    version = _version_number(turn, trace)
    return "Message" if version is None else f"Version {version} of the reply"


def _call_lines(call: Call) -> Iterator[str]:
    plugin, hook = one_line(call.plugin, _NAME_WIDTH), one_line(call.hook, _HOOK_WIDTH)
    summary = one_line(call.result_summary, 300) or (
        "" if call.error or call.changes else "nothing"
    )
    row = (
        f"    {format_duration(call.seconds):>8}  {plugin:<{_NAME_WIDTH}}  "
        f"{hook:<{_HOOK_WIDTH}}  {summary}"
    )
    yield row.rstrip()
    if call.error:
        yield _INDENT + click.style(f"failed: {one_line(call.error, 300)}", fg="red")
    for change in call.changes:
        yield from _change_lines(change)


def _change_lines(change: Change) -> Iterator[str]:
    pieces = "".join(format_diff_part(piece) for piece in diff_words(change.before, change.after))
    head, *others = pieces.split("\n")
    yield f"{_INDENT}{escape_controls(change.target)}: {head}"
    for line in others:
        yield f"{_INDENT}  {line}"


def format_diff_part(part: DiffSegment) -> str:
    """Format a part of a comparison with the marks of wdiff and in colour, safe for a terminal."""
    text = escape_controls(part.text)
    match part.kind:
        case "removed":
            return click.style(f"[-{text}-]", fg="red")
        case "added":
            return click.style(f"{{+{text}+}}", fg="green")
        case _:
            return text
