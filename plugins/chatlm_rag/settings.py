"""Settings; the index of a chat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chatlm import load_plugin_settings
from chatlm_rag import PLUGIN

if TYPE_CHECKING:
    from chatlm import Conversation


MAX_PASSAGES = 20


@dataclass(frozen=True)
class Settings:
    """What the person can set under `[plugins.rag]`."""

    index: str = field(
        default="", metadata={"help": "Index of chats that choose none; empty for none."}
    )
    passages: int = field(
        default=3, metadata={"help": f"Passages for a question at most, 1 to {MAX_PASSAGES}."}
    )
    answer: Literal["auto", "quote", "model"] = field(
        default="auto",
        metadata={"help": "Quote the documents, or let the model write; auto: by its size."},
    )
    answer_anyway: bool = field(
        default=False,
        metadata={"help": "Let the model answer alone when nothing relevant is found."},
    )
    reranker: Path | None = field(
        default=None,
        metadata={"help": "Folder of a cross-encoder that puts found passages in a better order."},
    )

    def __post_init__(self) -> None:
        if not 1 <= self.passages <= MAX_PASSAGES:
            raise ValueError(f"passages must be 1 to {MAX_PASSAGES}")


INDEX_KEY = "index"
"""Under this its name is kept with the chat, empty for none."""


def index_from_plugin_data(plugin_data: Mapping[str, Any]) -> str:
    """Its name, from what the plugin keeps with a chat; empty for none.

    One that chose none, nor to have none, has the person's usual one. A chat may come from a file
    that somebody else wrote: what is no text is passed over.
    """
    name = plugin_data.get(INDEX_KEY)
    return name if isinstance(name, str) else load_plugin_settings(PLUGIN, Settings).index


def index_from_conversation(conversation: Conversation) -> str:
    """Its name, from the chat itself; empty for none."""
    return index_from_plugin_data(conversation.plugin_data.get(PLUGIN, {}))
