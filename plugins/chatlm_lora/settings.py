"""Settings; the adapter of a chat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Settings:
    """What the person can set under `[plugins.lora]`."""

    adapter: str = field(
        default="", metadata={"help": "Adapter of chats that choose none; empty for the base."}
    )


ADAPTER_KEY, LAST_ADAPTER_KEY = "adapter", "last"
"""Under these the adapter in use, empty for the base alone, and the one that was used last."""


def selected_adapter(plugin_data: Mapping[str, Any], default: str) -> str:
    """The adapter of a chat; empty for the base alone.

    A chat may come from a file that somebody else wrote: what is no text is passed over.

    Args:
        plugin_data: what the plugin keeps with the chat.
        default: for a chat in which none was chosen, nor the base.
    """
    name = plugin_data.get(ADAPTER_KEY)
    return name if isinstance(name, str) else default


def last_adapter(plugin_data: Mapping[str, Any], default: str) -> str:
    """The adapter that the chat goes back to from the base; empty where there was none."""
    name = plugin_data.get(LAST_ADAPTER_KEY)
    return name if isinstance(name, str) and name else default
