"""Settings; what a chat labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from chatlm import own_settings
from chatlm_emotion import PLUGIN
from chatlm_emotion.card import SHIPPED

if TYPE_CHECKING:
    from chatlm import Conversation


Labelled = Literal["off", "user", "all"]


LABELLED: tuple[Labelled, ...] = get_args(Labelled)


@dataclass(frozen=True)
class Settings:
    """What the person can set under `[plugins.emotion]`."""

    label: Labelled = field(
        default="user",
        metadata={"help": "Label no message, the person's, or all; a chat may choose otherwise."},
    )
    classifier: str = field(
        default=SHIPPED, metadata={"help": "The classifier: chatlm emotion list."}
    )


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
