"""Settings, and the adapter that a chat uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatlm.plugin_kit.chat_state import text_value


@dataclass(frozen=True)
class Settings:
    """Settings in `[plugins.lora]`."""

    adapter: str = field(
        default="", metadata={"help": "Default adapter of chats; empty for the base model."}
    )


ADAPTER_KEY, LAST_ADAPTER_KEY = "adapter", "last"
"""Keys of the adapter in use, empty for the base model alone, and of the last one used."""


def selected_adapter(plugin_data: Mapping[str, Any], default: str) -> str:
    """Return the name of a chat's adapter; empty for the base model alone.

    Args:
        plugin_data: what the plugin stores with the chat.
        default: for a chat in which neither an adapter nor the base model was chosen.
    """
    return text_value(plugin_data, ADAPTER_KEY, default)


def last_adapter(plugin_data: Mapping[str, Any], default: str) -> str:
    """Return the adapter that `/base` switches back to; empty if there was none."""
    return text_value(plugin_data, LAST_ADAPTER_KEY, default) or default
