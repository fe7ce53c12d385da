"""`chatlm chats cache`: the disk space of saved KV caches."""

from __future__ import annotations

import json

import click

from chatlm.cli.chats import format_chat_count, open_store
from chatlm.config import config
from chatlm.hub.disk import human_bytes


@click.command()
@click.option("--delete", is_flag=True, help="Delete all of it; the chats stay.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cache(delete: bool, as_json: bool) -> None:
    """Show or delete what is kept on disk so that long chats open at once.

    The setting chat_cache limits it; with 0 nothing is kept.

    Example: chatlm chats cache --delete
    """
    limit = config.load().chat_cache * 1_000_000
    with open_store() as store:
        folder, chats, size = store.saved_caches()
        if delete:
            store.remove_caches()
    if as_json:
        values = {"folder": str(folder), "chats": chats, "bytes": size, "limit": limit}
        click.echo(json.dumps(values | {"deleted": delete}))
    elif delete:
        click.echo(f"{human_bytes(size)} of {format_chat_count(chats)} deleted", err=True)
    else:
        click.echo(f"{human_bytes(size)} of {format_chat_count(chats)} in {folder}")
        click.echo(f"limit {human_bytes(limit)}: chatlm config set chat_cache MB")
