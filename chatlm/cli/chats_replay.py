"""`chatlm chats replay`: generate a reply again and show the differences; nothing is changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import click

from chatlm.chat.live_tools import LiveTools
from chatlm.chat.replay import ReplayEvent, ReplayFinished, replay, require_provenance
from chatlm.chat.tool_loop import retrieved_only
from chatlm.chat.tool_set import ToolOptions
from chatlm.cli.ask import load_engine
from chatlm.cli.ask_tools import ask_about_call, ask_for_tool, print_tool_event
from chatlm.cli.chats import open_to_read
from chatlm.cli.chats_show import format_diff_part
from chatlm.cli.completers import complete_chat, complete_model
from chatlm.cli.options import apply_plugin_options, plugin_options
from chatlm.config import config
from chatlm.errors import ChatlmError, EngineError, UsageError
from chatlm.plugin_host.lifecycle import loaded_plugins
from chatlm.text import dump_json, escape_controls
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.events import (
    ApprovalNeeded,
    Delta,
    Notice,
    Prefill,
    ToolFinished,
    ToolQuestion,
    ToolStarted,
)
from chatlm.types.replies import Reply
from chatlm.types.tool_rules import parse_rules

EXIT_DIFFERENT = 1
"""The exit code if the replies differ, as that of diff."""


EXIT_TROUBLE = 2
"""The exit code for an error, as that of diff."""


@click.command("replay")
@click.argument("chat_id", metavar="ID", type=int, shell_complete=complete_chat)
@click.option(
    "--turn",
    "turn_number",
    type=click.IntRange(min=1),
    metavar="N",
    help="Replay the reply of turn N; by default the newest.",
)
@click.option(
    "--version",
    "version_number",
    type=click.IntRange(min=1),
    metavar="N",
    help="Replay version N of the reply; by default the shown one.",
)
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=complete_model,
    help="Generate it with another model.",
)
@click.option(
    "--adapter",
    metavar="NAME|off",
    help="Generate it with this adapter, or with none; by default with the reply's own.",
)
@click.option(
    "--live",
    is_flag=True,
    help="Run the tools of the reply again instead of reading their recorded results; asks as the "
    "chat does.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="RULE",
    help="With --live: let these calls run without asking, as in ask; repeatable.",
)
@click.option(
    "--deny", multiple=True, metavar="RULE", help="With --live: refuse these calls; repeatable."
)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON with both replies.")
def replay_reply(
    chat_id: int,
    turn_number: int | None,
    version_number: int | None,
    model: str | None,
    adapter: str | None,
    live: bool,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    safe_mode: bool,
    without: tuple[str, ...],
    as_json: bool,
) -> None:
    """Generate a reply again from its provenance, and compare.

    A reply with tools reads the recorded results again; --live runs the tools.
    Prints differences as [-before-]{+after+}. The exit code is 0 if the replies are equal, 1 if
    they differ, 2 for an error.

    Example: chatlm chats replay 12 --turn 3
    """
    with _distinct_exit_codes(), open_to_read() as store:
        if (allow or deny) and not live:
            raise UsageError("--allow and --deny require --live.")
        parse_rules((*allow, *deny))
        chat = store.conversation(chat_id)
        turn, reply = _select_reply(chat, turn_number, version_number)
        settings = config.load(model=model or require_provenance(store, reply.id).model or None)
        settings = apply_plugin_options(settings, safe_mode=safe_mode, without=without)
        tools = ToolOptions(settings.tools, allow=allow, deny=deny)
        with loaded_plugins(settings) as plugins:
            engine = load_engine(settings, plugins)
            passages = retrieved_only(store.passages(turn.id))
            events = replay(
                store,
                engine,
                reply.id,
                adapter="" if adapter == "off" else adapter,
                plugins=plugins,
                live=LiveTools(plugins, tools, chat, turn, passages) if live else None,
            )
            asks = not as_json and sys.stdin.isatty() and sys.stderr.isatty()
            with closing(events):
                replayed = _finish_replay(events, asks=asks)
    if as_json:
        click.echo(dump_json(_to_dict(chat_id, turn, replayed)))
    else:
        _print_replay(replayed)
    if not replayed.same_text:
        sys.exit(EXIT_DIFFERENT)


@contextmanager
def _distinct_exit_codes() -> Iterator[None]:
    """Give errors another exit code than differing replies."""
    try:
        yield
    except ChatlmError as error:
        if error.exit_code == EXIT_DIFFERENT:
            error.exit_code = EXIT_TROUBLE
        raise


def _select_reply(
    chat: Conversation, turn_number: int | None, version_number: int | None
) -> tuple[Turn, Reply]:
    answered = [turn_number for turn_number in chat.turns if turn_number.replies]
    if turn_number is not None:
        answered = [one for one in answered if one.position + 1 == turn_number]
    if not answered:
        which = "no reply" if turn_number is None else f"no turn {turn_number} with a reply"
        raise UsageError(
            f"Chat {chat.id} has {which}.", hint=f"List its turns: chatlm chats show {chat.id}"
        )
    found = answered[-1]
    replies = [
        one for one in found.replies if version_number is None or one.version == version_number
    ]
    if not replies or found.reply is None:
        raise UsageError(
            f"Turn {found.position + 1} of chat {chat.id} has no version {version_number}.",
            hint=f"List its turns: chatlm chats show {chat.id} --details",
        )
    return found, found.reply if version_number is None else replies[0]


def _finish_replay(events: Iterator[ReplayEvent], *, asks: bool) -> ReplayFinished:
    """Pull the events, with a status line on a terminal, and return the last one.

    Args:
        events: of the replay.
        asks: whether somebody is there who can be asked about calls of tools.
    """
    try:
        for event in events:
            match event:
                case Prefill(done=done, total=total):
                    _draw_status(f"Reading the prompt: {done} of {total} tokens")
                case Delta(usage=usage):
                    tokens = _format_token_count(usage.completion_tokens)
                    _draw_status(f"Generating the reply: {tokens}")
                case ApprovalNeeded():
                    _draw_status("")
                    if asks:
                        ask_about_call(event, is_replay=True)
                case ToolQuestion():
                    _draw_status("")
                    if asks:
                        ask_for_tool(event)
                case ToolStarted() | ToolFinished():
                    _draw_status("")
                    print_tool_event(event)
                case Notice(text=text):
                    _draw_status("")
                    click.echo(escape_controls(text), err=True)
                case ReplayFinished():
                    return event
    finally:
        _draw_status("")
    raise EngineError("The replay ended without a result", hint="`chatlm logs` has the details.")


def _draw_status(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def _print_replay(replayed: ReplayFinished) -> None:
    if replayed.same_text:
        click.echo(f"The same, {_format_token_count(replayed.usage.completion_tokens)}.")
    else:
        click.echo("".join(format_diff_part(piece) for piece in replayed.diff()))
    if replayed.thoughts_differ:
        click.echo("The thoughts come first, since they differ.", err=True)
    for note in replayed.mismatches:
        click.echo(escape_controls(note), err=True)


def _format_token_count(count: int) -> str:
    return "1 token" if count == 1 else f"{count} tokens"


def _to_dict(chat_id: int, turn: Turn, replayed: ReplayFinished) -> dict[str, Any]:
    original = replayed.original
    return {
        "same": replayed.same_text,
        "same_prompt": replayed.same_prompt,
        "chat": chat_id,
        "turn": turn.position + 1,
        "version": original.version,
        "original": {
            "text": original.text,
            "reasoning": original.reasoning or None,
            "stop_reason": original.stop_reason,
            "usage": original.usage.to_dict(),
        },
        "replay": {
            "text": replayed.text,
            "reasoning": replayed.reasoning or None,
            "stop_reason": replayed.stop_reason,
            "usage": replayed.usage.to_dict(),
        },
        "differences": [piece.to_dict() for piece in replayed.diff()],
        "notes": replayed.mismatches,
        "made_by": replayed.provenance.to_dict(),
    }
