"""Config, plugins, engine loader, sessions, clock; completers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatlm.hub import names as names_module
from chatlm.hub.catalogue import catalogue
from chatlm.store.store import Store
from chatlm.tui.composer.completion import Completer
from chatlm.types.messages import PluginData
from chatlm.types.sampling import Sampling

if TYPE_CHECKING:
    from chatlm.tui.app import ChatApp


def argument_completers(app: ChatApp) -> Mapping[str, Completer]:
    """By the command's name; paths need none."""
    return {
        "theme": lambda typed: _filter_names(typed, app.available_themes),
        "model": lambda typed: _filter_names(typed, _installed_chat_models()),
        "replay": lambda typed: _filter_names(typed, _installed_chat_models()),
    }


def _installed_chat_models() -> list[str]:
    """Those that are here; an embedder cannot chat."""
    entries = catalogue()
    names = names_module.installed_names()
    return [name for name in names if name not in entries or entries[name].kind == "chat"]


def _filter_names(query: str, names: Iterable[str]) -> list[str]:
    """The names that hold what was typed; those that begin with it come first."""
    query = query.lower()
    found = [name for name in names if query in name.lower()]
    return sorted(found, key=lambda name: (not name.lower().startswith(query), name))


@dataclass
class OpenChat:
    """A chat that is shown or answering; `conversation_id` comes with its first message."""

    store: Store
    conversation_id: int | None = None
    system: str = ""
    """The system prompt that a new one will have."""
    sampling: Sampling = field(default_factory=Sampling)
    """What the person set for a new one."""
    plugin_data: PluginData = field(default_factory=dict)
    """What plugins keep with a new one."""
    disabled_plugins: frozenset[str] = frozenset()
    """Plugins that are switched off in a new one."""
