"""Completion of option and argument values in the shell; nothing is imported until it is needed."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from chatlm.errors import ChatlmError


def complete_chat(
    context: click.Context, parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    """Complete the ids of saved chats, with their titles; none if they cannot be read."""
    from chatlm.config import paths
    from chatlm.store.store import Store
    from chatlm.text import one_line

    if not paths.database_file().exists():
        return []
    try:
        with Store(paths.database_file()) as store:
            summaries = store.list_conversations(limit=200)
    except ChatlmError:
        return []
    return [
        CompletionItem(str(chat.id), help=one_line(chat.title, 60))
        for chat in summaries
        if str(chat.id).startswith(start)
    ]


def complete_model(
    context: click.Context, parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    """Return the known model names that start with `start`."""
    from chatlm.hub.names import known_names

    return [CompletionItem(name) for name in known_names() if name.startswith(start)]


def complete_plugin(
    context: click.Context, parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    """Return the plugin names that start with `start`."""
    from chatlm.plugin_host.discovery import find_plugins

    return [
        CompletionItem(found.name, help=found.source)
        for found in find_plugins()
        if found.name.startswith(start)
    ]


def complete_template(
    context: click.Context, parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    """Return the template names that start with `start`; none when the settings cannot be read."""
    from chatlm.chat.templates import available_templates
    from chatlm.config import config
    from chatlm.plugin_host.lifecycle import loaded_plugins

    try:
        with loaded_plugins(config.load()) as plugins:
            return [
                CompletionItem(name)
                for name in available_templates(plugins)
                if name.startswith(start)
            ]
    except ChatlmError:
        return []
