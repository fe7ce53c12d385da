"""Read the values that one plugin stores with a chat.

A chat may come from a file that someone else wrote, so values of the wrong type are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from chatlm.types.conversations import Conversation

D = TypeVar("D")
T = TypeVar("T", bound=str)


def plugin_state(conversation: Conversation, plugin: str) -> Mapping[str, Any]:
    """Return the values that a plugin stores with a chat; hooks use it where they have no `Ui`.

        name = text_value(plugin_state(conversation, "recipes"), "recipe", None)

    Args:
        conversation: the chat.
        plugin: name of the plugin.
    """
    return conversation.plugin_data.get(plugin, {})


def text_value(state: Mapping[str, Any], key: str, default: D) -> str | D:
    """Return a stored string.

        name = text_value(ui.state, "recipe", "")

    Args:
        state: `ui.state` or `plugin_state(…)`.
        key: the key of the value.
        default: returned if the key is missing or its value is not a string.
    """
    value = state.get(key)
    return value if isinstance(value, str) else default


def choice_value(state: Mapping[str, Any], key: str, choices: Sequence[T], default: D) -> T | D:
    """Return a stored string that is one of several choices.

        taste = choice_value(ui.state, "taste", ("sweet", "sour"), "sweet")

    Args:
        state: `ui.state` or `plugin_state(…)`.
        key: the key of the value.
        choices: the valid values.
        default: returned if the key is missing or its value is not valid.
    """
    value = state.get(key)
    return next((choice for choice in choices if choice == value), default)
