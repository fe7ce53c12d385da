"""Which messages of a chat are labelled, as it is kept with the chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chatlm import own_settings
from chatlm_emotion import PLUGIN
from chatlm_emotion.settings import LABELLED, Labelled, Settings

if TYPE_CHECKING:
    from chatlm import Conversation

LABEL = "label"
"""Under this it is kept."""


def labelled_of(kept: Mapping[str, Any]) -> Labelled:
    """What is labelled, from what the plugin keeps with a chat.

    A chat that chose nothing has the person's usual choice. It may come from a file that somebody
    else wrote: what is no choice is passed over.
    """
    choice = kept.get(LABEL)
    for each in LABELLED:
        if choice == each:
            return each
    return own_settings(PLUGIN, Settings).label


def labelled_in(conversation: Conversation) -> Labelled:
    """What is labelled, from the chat itself."""
    return labelled_of(conversation.kept.get(PLUGIN, {}))
