"""The group `chatlm chats`, its commands imported on use, and helpers that they share."""

from __future__ import annotations

import click

from chatlm.cli.command_groups import ExtensibleGroup
from chatlm.config import paths
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
        "Search titles, messages, replies and calls of tools for all of the given words.",
    ),
    "replay": (
        "chatlm.cli.chats_replay:replay_reply",
        "Generate a reply again from its provenance, and compare.",
    ),
    "rename": ("chatlm.cli.chats_edit:rename", "Rename a chat."),
    "pin": ("chatlm.cli.chats_edit:pin", "Pin chats to the top of the list."),
    "unpin": ("chatlm.cli.chats_edit:unpin", "Unpin chats."),
    "fork": (
        "chatlm.cli.chats_edit:fork",
        "Copy a chat, or its first turns, into a new one.",
    ),
    "export": ("chatlm.cli.chats_files:export_chats", "Export chats to a file or to stdout."),
    "import": ("chatlm.cli.chats_files:import_chats", "Import chats from a file."),
    "restore": (
        "chatlm.cli.chats_edit:restore",
        "Restore a chat from the trash.",
    ),
    "delete": (
        "chatlm.cli.chats_edit:delete",
        "Delete chats permanently.",
    ),
    "cache": (
        "chatlm.cli.chats_cache:cache",
        "Show or delete what is kept on disk so that long chats open at once.",
    ),
}
"""Command name -> `module:attribute` and help in one line."""


def open_store() -> Store:
    """Open the saved chats."""
    return Store(paths.database_file())


def open_to_read() -> Store:
    """Open the saved chats to read them; warn on stderr if they cannot be changed."""
    store = open_store()
    if store.unwritable is not None:
        warning = f"The chats can be read, but not changed. {store.unwritable.message}"
        click.echo(escape_controls(warning), err=True)
    return store


def format_chat_count(count: int) -> str:
    """Format a number of chats."""
    return "1 chat" if count == 1 else f"{count} chats"


def format_title(title: str) -> str:
    """Format a title on one line; a placeholder for an empty one."""
    return one_line(title, 60) or "(empty)"


@click.group(cls=ExtensibleGroup, lazy=COMMANDS)
def chats() -> None:
    """List, search, edit, export and import saved chats.

    Example: chatlm chats search capital of france
    """
