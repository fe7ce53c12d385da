"""Settings; what a chat labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from chatlm import load_plugin_settings
from chatlm_emotion import PLUGIN
from chatlm_emotion.card import DEFAULT_CLASSIFIER

if TYPE_CHECKING:
    from chatlm import Conversation


LabelScope = Literal["off", "user", "all"]


LABEL_SCOPES: tuple[LabelScope, ...] = get_args(LabelScope)


@dataclass(frozen=True)
class Settings:
    """What the person can set under `[plugins.emotion]`."""

    label: LabelScope = field(
        default="user",
        metadata={"help": "Label no message, the person's, or all; a chat may choose otherwise."},
    )
    classifier: str = field(
        default=DEFAULT_CLASSIFIER, metadata={"help": "The classifier: chatlm emotion list."}
    )


LABEL_KEY = "label"
"""Under this it is kept."""


def label_scope(plugin_data: Mapping[str, Any]) -> LabelScope:
    """What is labelled, from what the plugin keeps with a chat.

    A chat that chose nothing has the person's usual choice. It may come from a file that somebody
    else wrote: what is no choice is passed over.
    """
    choice = plugin_data.get(LABEL_KEY)
    for each in LABEL_SCOPES:
        if choice == each:
            return each
    return load_plugin_settings(PLUGIN, Settings).label


def label_scope_in_chat(conversation: Conversation) -> LabelScope:
    """What is labelled, from the chat itself."""
    return label_scope(conversation.plugin_data.get(PLUGIN, {}))
