"""The terminal UI; everything that draws is below here, and nothing else imports Textual."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatlm.config import Config

LOAD_SECONDS = 0.5
"""How long the way out waits for a model that is still loading."""


def run(config: Config, incognito: bool = False, conversation_id: int | None = None) -> None:
    """Open the UI and return when the person quits.

    Args:
        config: the person's settings.
        incognito: begin with a chat that is not saved.
        conversation_id: open this chat at once.

    Raises:
        StoreError: the saved chats cannot be opened.
    """
    from chatlm import paths
    from chatlm.plugins import PluginHost
    from chatlm.store import Store
    from chatlm.tui.app import ChatApp
    from chatlm.tui.opening import opener

    plugins = PluginHost()
    plugins.load_entry_points(config.disabled_plugins)
    with Store(paths.database()) as store:
        app = ChatApp(
            store,
            opener(config, plugins),
            plugins=plugins,
            config=config,
            incognito=incognito,
            conversation_id=conversation_id,
        )
        app.run()
    if not app.engine.abandon(LOAD_SECONDS):
        logging.shutdown()
        os._exit(app.return_code or 0)  # an interpreter that ends under an import may crash
    app.engine.close()
