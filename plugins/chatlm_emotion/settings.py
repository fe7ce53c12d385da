"""What the person can set for all chats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from chatlm_emotion.library import SHIPPED

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
