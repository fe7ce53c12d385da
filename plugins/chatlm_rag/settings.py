"""Settings of the plugin, and the index that a chat uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from chatlm import load_plugin_settings
from chatlm.plugin_kit.chat_state import plugin_state, text_value
from chatlm_rag import PLUGIN

if TYPE_CHECKING:
    from chatlm import Conversation


MAX_PASSAGES = 20


DEFAULT_THRESHOLD = 0.33
"""Keeps nine of ten questions that documents for tuning answer; see
`retrieval.relevance`."""


@dataclass(frozen=True)
class Settings:
    """Settings under `[plugins.rag]`."""

    index: str = field(default="", metadata={"help": "Default index of a chat; empty for none."})
    passages: int = field(
        default=3, metadata={"help": f"Maximum passages for a question, 1 to {MAX_PASSAGES}."}
    )
    answer: Literal["auto", "quote", "model"] = field(
        default="auto",
        metadata={"help": "Quote the documents, or let the model write; auto: by model size."},
    )
    answer_anyway: bool = field(
        default=False,
        metadata={"help": "Let the model answer without documents when nothing relevant is found."},
    )
    threshold: float = field(
        default=DEFAULT_THRESHOLD,
        metadata={"help": "Least confidence with which passages count as relevant, 0 to 1."},
    )
    reranker: str = field(
        default="",
        metadata={"help": "Name or folder of a cross-encoder that reranks the passages."},
    )

    watch: bool = field(
        default=False,
        metadata={"help": "Update the index of the open chat whenever its files change."},
    )

    def __post_init__(self) -> None:
        if not 1 <= self.passages <= MAX_PASSAGES:
            raise ValueError(f"passages must be 1 to {MAX_PASSAGES}")
        if not 0 <= self.threshold <= 1:
            raise ValueError("threshold must be 0 to 1")


INDEX_KEY = "index"
"""Key of the index name in a chat's plugin data; the value is empty for none."""


def index_from_plugin_data(plugin_data: Mapping[str, Any]) -> str:
    """Return the name of a chat's index; empty for none.

    A chat without a valid entry uses the default index of the settings.

    Args:
        plugin_data: this plugin's data of the chat.
    """
    name = text_value(plugin_data, INDEX_KEY, None)
    return load_plugin_settings(PLUGIN, Settings).index if name is None else name


def index_from_conversation(conversation: Conversation) -> str:
    """Return the name of a chat's index; empty for none."""
    return index_from_plugin_data(plugin_state(conversation, PLUGIN))
