"""Text that plugins suggest for the message that is being written."""

from __future__ import annotations

from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.types.conversations import Conversation


def suggest_text(conversation: Conversation, text: str, plugins: PluginHost) -> str:
    """Return what the first plugin suggests to insert at the end of a text; empty for nothing.

    Args:
        conversation: the chat, its id 0 before the first message; its disabled plugins are not
            asked.
        text: what is in the composer.
        plugins: whose hooks are called, in this thread.
    """
    enabled = TurnPlugins(plugins, conversation.disabled_plugins)
    suggestion: str = enabled.call_hook("suggest_text", "", conversation=conversation, text=text)
    return suggestion
