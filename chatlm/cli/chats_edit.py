"""`chatlm chats rename`, `pin`, `unpin`, `fork`, `restore` and `delete`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from chatlm.cli.chats import format_chat_count, format_title, open_store
from chatlm.cli.completers import complete_chat
from chatlm.errors import ConfigError, UsageError
from chatlm.store import export
from chatlm.store.store import Store
from chatlm.text import escape_controls

_chat_id_argument = click.argument("chat_id", metavar="ID", type=int, shell_complete=complete_chat)


_chat_ids_argument = click.argument(
    "chat_ids", metavar="ID...", nargs=-1, required=True, type=int, shell_complete=complete_chat
)


@click.command()
@_chat_id_argument
@click.argument("title")
def rename(chat_id: int, title: str) -> None:
    """Rename a chat.

    With an empty title, lists show the beginning of the first message.

    Example: chatlm chats rename 12 "Holiday plans"
    """
    with open_store() as store:
        store.rename(chat_id, title)
        name = store.title(chat_id)
    click.echo(f"Chat {chat_id} is now called: {format_title(name)}", err=True)


@click.command()
@_chat_ids_argument
def pin(chat_ids: tuple[int, ...]) -> None:
    """Pin chats to the top of the list.

    Example: chatlm chats pin 12
    """
    _set_pinned(chat_ids, True)
    click.echo(f"{format_chat_count(len(set(chat_ids)))} pinned", err=True)


@click.command()
@_chat_ids_argument
def unpin(chat_ids: tuple[int, ...]) -> None:
    """Unpin chats.

    Example: chatlm chats unpin 12
    """
    _set_pinned(chat_ids, False)
    click.echo(f"{format_chat_count(len(set(chat_ids)))} unpinned", err=True)


def _set_pinned(chat_ids: tuple[int, ...], pinned: bool) -> None:
    with open_store() as store:
        for chat_id in chat_ids:
            store.set_pinned(chat_id, pinned)


@click.command()
@_chat_id_argument
@click.option("--turns", type=click.IntRange(min=0), metavar="N", help="Only the first N turns.")
def fork(chat_id: int, turns: int | None) -> None:
    """Copy a chat, or its first turns, into a new one.

    Prints the id and title of the copy.

    Example: chatlm chats fork 12 --turns 3
    """
    with open_store() as store:
        count = len(store.conversation(chat_id).turns)
        if turns is not None and turns > count:
            raise UsageError(
                f"Chat {chat_id} has only {count} turns, not {turns}.",
                hint=f"See them: chatlm chats show {chat_id}",
            )
        copy = store.fork(chat_id, turns)
    click.echo(f"{copy.id}  {format_title(export.display_title(copy))}")


@click.command()
@click.argument("chat_id", metavar="ID", type=int)
def restore(chat_id: int) -> None:
    """Restore a chat from the trash.

    Chats deleted in the UI are moved there.

    Example: chatlm chats restore 12
    """
    with open_store() as store:
        store.restore(chat_id)
        name = store.title(chat_id)
    click.echo(f"Chat {chat_id} is restored: {format_title(name)}", err=True)


@click.command()
@_chat_ids_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete(chat_ids: tuple[int, ...], yes: bool) -> None:
    """Delete chats permanently.

    Also chats in the trash.

    Example: chatlm chats delete 12 13
    """
    ids = list(dict.fromkeys(chat_ids))
    with open_store() as store:
        titles = {chat_id: store.title(chat_id) for chat_id in ids}
        if not yes:
            what = f"“{format_title(titles[ids[0]])}”"
            if len(ids) > 1:
                what = format_chat_count(len(ids))
                for chat_id, title in titles.items():
                    click.echo(f"{chat_id}  {format_title(title)}", err=True)
            click.confirm(f"Delete {what} permanently?", abort=True, err=True)
        _delete(store, ids)
    click.echo(f"{format_chat_count(len(ids))} deleted", err=True)


def _delete(store: Store, chat_ids: Sequence[int]) -> None:
    """Delete chats and call the plugins' `chat_deleted`; not if the config file is invalid."""
    from chatlm.chat.deletion import delete_chats
    from chatlm.config import config
    from chatlm.plugin_host.host import PluginHost
    from chatlm.plugin_host.lifecycle import loaded_plugins

    try:
        settings = config.load()
    except ConfigError as error:
        click.echo(escape_controls(f"Plugins were not notified. {error}"), err=True)
        delete_chats(store, chat_ids, PluginHost())
        return
    with loaded_plugins(settings) as plugins:
        delete_chats(store, chat_ids, plugins)
        for fault in plugins.take_faults():
            click.echo(escape_controls(str(fault)), err=True)
