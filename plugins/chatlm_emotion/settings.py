"""Settings, and which messages of a chat are labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from chatlm import load_plugin_settings
from chatlm.plugin_kit.chat_state import choice_value, plugin_state
from chatlm_emotion import PLUGIN
from chatlm_emotion.card import DEFAULT_CLASSIFIER

if TYPE_CHECKING:
    from chatlm import Conversation


LabelScope = Literal["off", "user", "all"]


LABEL_SCOPES: tuple[LabelScope, ...] = get_args(LabelScope)


@dataclass(frozen=True)
class Settings:
    """Settings in `[plugins.emotion]`."""

    label: LabelScope = field(
        default="off",
        metadata={"help": "Messages to label: off, user or all; each chat can override it."},
    )
    classifier: str = field(
        default=DEFAULT_CLASSIFIER, metadata={"help": "Classifier; see chatlm emotion list."}
    )


LABEL_KEY = "label"
"""Key of the chat's own choice."""


def label_scope(plugin_data: Mapping[str, Any]) -> LabelScope:
    """Return which messages of a chat are labelled: the chat's own choice, else the setting."""
    scope = choice_value(plugin_data, LABEL_KEY, LABEL_SCOPES, None)
    return scope or load_plugin_settings(PLUGIN, Settings).label


def label_scope_in_chat(conversation: Conversation) -> LabelScope:
    """Return which messages of a chat are labelled, where a hook has no `Ui`."""
    return label_scope(plugin_state(conversation, PLUGIN))
