"""Let a plugin index a folder that is too large to attach to a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from chatlm.errors import ChatlmError
from chatlm.text import one_line
from chatlm.tui.plugin_ui.ui import PluginUi, PluginUiHost
from chatlm.types.services import FolderIndexer, as_service


class PluginFolderIndexing:
    """Indexes folders by the service `folder_indexer`, with its progress on the screen.

    Args:
        host: the chat screen's side of a plugin's UI.
    """

    def __init__(self, host: PluginUiHost) -> None:
        self._host = host

    @property
    def is_possible(self) -> bool:
        """Whether a plugin that is enabled in the chat offers the service."""
        plugin, indexer = self._host.services.plugins.service_of("folder_indexer")
        disabled = self._host.chat.conversation.disabled_plugins
        return as_service(indexer, FolderIndexer) is not None and plugin not in disabled

    def index(self, folder: Path) -> Callable[[], None]:
        """Index a folder; see `chatlm.tui.composer.folders.FolderIndexing`."""
        folder = folder.resolve()  # `..` is no name
        plugins = self._host.services.plugins
        plugin, indexer = plugins.service_of("folder_indexer")
        ui = PluginUi(plugin, self._host)
        with ui.progress(f"Indexing {folder.name}") as work:
            try:
                setup = indexer.index_folder(folder, work)
            except ChatlmError:
                raise
            except Exception as error:  # a plugin may fail in any way
                plugins.record_failure(plugin, "index_folder", error)
                raise
        return partial(self._use, ui, setup.plugin_data.get(plugin, {}), folder)

    def _use(self, ui: PluginUi, values: Mapping[str, Any], folder: Path) -> None:
        self._host.set_plugin_data(ui, values)
        ui.notify(f"This chat now answers from an index of {one_line(folder.name, 64)}; see /rag.")
