"""The group `chatlm chats`; each command is imported when it runs."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from chatlm.cli.command_groups import ExtensibleGroup
from chatlm.config import paths
from chatlm.errors import ChatlmError
from chatlm.store.store import Store
from chatlm.text import escape_controls, one_line

COMMANDS = {
    "list": (
        "chatlm.cli.chats_show:list_chats",
        "List the chats, pinned ones first, then last changed first.",
    ),
    "show": ("chatlm.cli.chats_show:show", "Show one chat."),
    "search": (
        "chatlm.cli.chats_show:search",
        "Find titles, messages and replies that hold all the words.",
    ),
    "replay": (
        "chatlm.cli.chats_replay:replay_reply",
        "Make a reply again, from all that made it, and compare.",
    ),
    "rename": ("chatlm.cli.chats_edit:rename", "Give a chat a title."),
    "pin": ("chatlm.cli.chats_edit:pin", "List chats first."),
    "unpin": ("chatlm.cli.chats_edit:unpin", "List chats in their own place again."),
    "fork": (
        "chatlm.cli.chats_edit:fork",
        "Create a new chat as a copy of another.",
    ),
    "export": ("chatlm.cli.chats_files:export_chats", "Write chats to a file, or to the output."),
    "import": ("chatlm.cli.chats_files:import_chats", "Read chats from a file."),
    "restore": (
        "chatlm.cli.chats_edit:restore",
        "Bring back a chat that was deleted on the screen.",
    ),
    "delete": ("chatlm.cli.chats_edit:delete", "Delete chats for good."),
}
"""Name -> where the command is, and its help in one line."""


def complete_chat(
    context: click.Context, parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    """The ids of saved chats that begin so, with their titles; none when they cannot be read."""
    if not paths.database_file().exists():
        return []
    try:
        with open_store() as store:
            summaries = store.list_conversations(limit=200)
    except ChatlmError:
        return []
    return [
        CompletionItem(str(chat.id), help=one_line(chat.title, 60))
        for chat in summaries
        if str(chat.id).startswith(start)
    ]


def open_store() -> Store:
    """Open the saved chats."""
    return Store(paths.database_file())


def open_to_read() -> Store:
    """Open the saved chats for a command that changes none; tell whether they can be changed."""
    store = open_store()
    if store.unwritable is not None:
        told = f"The chats can be read, but not changed. {store.unwritable.message}"
        click.echo(escape_controls(told), err=True)
    return store


def format_chat_count(count: int) -> str:
    """So many chats, in words."""
    return "1 chat" if count == 1 else f"{count} chats"


def format_title(title: str) -> str:
    """A title on one line; something to see where there is none."""
    return one_line(title, 60) or "(empty)"


@click.group(cls=ExtensibleGroup, lazy=COMMANDS)
def chats() -> None:
    """List, search, change, export and import saved chats.

    Example: chatlm chats search capital of france
    """
