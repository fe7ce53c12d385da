"""The index that a chat is about, as it is kept with the chat; it opens none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chatlm import own_settings
from chatlm_rag import PLUGIN
from chatlm_rag.settings import Settings

if TYPE_CHECKING:
    from chatlm import Conversation

INDEX = "index"
"""Under this its name is kept with the chat, empty for none."""


def index_of(kept: Mapping[str, Any]) -> str:
    """Its name, from what the plugin keeps with a chat; empty for none.

    One that chose none, nor to have none, has the person's usual one. A chat may come from a file
    that somebody else wrote: what is no text is passed over.
    """
    name = kept.get(INDEX)
    return name if isinstance(name, str) else own_settings(PLUGIN, Settings).index


def index_in(conversation: Conversation) -> str:
    """Its name, from the chat itself; empty for none."""
    return index_of(conversation.kept.get(PLUGIN, {}))
