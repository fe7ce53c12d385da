"""Hook implementations of the MCP plugin."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm import Panel, hookimpl
from chatlm_mcp import actions
from chatlm_mcp.settings import Settings

if TYPE_CHECKING:
    from chatlm import (
        Commands,
        PluginContext,
        ResourceSource,
        SlashCommand,
        TemplateRenderer,
        Tool,
        Ui,
    )
    from chatlm_mcp.servers import Servers


class McpPlugin:
    """Use the tools, texts and prompts of MCP servers.

    Args:
        servers: None for those of mcp.json, with the plugin's settings.
    """

    Settings = Settings

    def __init__(self, servers: Servers | None = None) -> None:
        self._settings = Settings()
        self._opened = servers

    @hookimpl
    def startup(self, context: PluginContext) -> None:
        """Store the settings."""
        self._settings = context.settings(Settings)

    @hookimpl
    def shutdown(self) -> None:
        """End the servers that run."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @hookimpl
    def register_commands(self, cli: Commands) -> None:
        """Add `chatlm mcp`."""
        cli.add_lazy(
            "mcp",
            "chatlm_mcp.commands:mcp",
            "Manage MCP servers, or serve chatlm to MCP clients.",
        )

    @hookimpl(trylast=True)  # so that the names of tools and groups of plugins are theirs
    def register_tools(self, register: Callable[[Tool], None]) -> None:
        """Offer the servers' tools."""
        from chatlm_mcp.tools import make_tools

        for tool in make_tools(self._servers()) if _has_servers() else ():
            register(tool)

    @hookimpl
    def register_resources(self, register: Callable[[str, ResourceSource], None]) -> None:
        """Offer the servers' resources, as `SERVER:RESOURCE`."""
        from chatlm_mcp.resources import ServerResources

        for server in self._servers().usable() if _has_servers() else ():
            register(server.config.name, ServerResources(server))

    @hookimpl
    def register_services(self, register: Callable[[str, Any], None]) -> None:
        """Let sessions connect servers of their own."""
        from chatlm_mcp.session_servers import SessionServers

        register("tool_servers", SessionServers(lambda: self._settings))

    @hookimpl
    def register_templates(self, register: Callable[[str, TemplateRenderer], None]) -> None:
        """Offer the servers' prompts, as `SERVER:PROMPT`."""
        from chatlm_mcp.prompts import make_templates

        for name, render in make_templates(self._servers()).items() if _has_servers() else ():
            register(name, render)

    @hookimpl
    def register_slash_commands(self, register: Callable[[SlashCommand], None]) -> None:
        """Add `/prompt`."""
        actions.register(register, self._servers)

    @hookimpl
    def register_panels(self, register: Callable[[Panel], None]) -> None:
        """Add the servers with their health and logs."""
        register(Panel("mcp", "MCP servers", partial(_open_panel, self._servers)))

    def _servers(self) -> Servers:
        if self._opened is None:
            from chatlm_mcp.servers import Servers

            self._opened = Servers(self._settings, _named_folders)
        return self._opened


def _has_servers() -> bool:
    """Whether there is a file of servers, without an import of what reads it."""
    from chatlm import config_dir

    return (config_dir() / "mcp.json").exists()


def _named_folders() -> tuple[Path, ...]:
    """Return the folders of the settings; a call of a tool has those of its chat as well."""
    from chatlm import expand_path, load_config

    return tuple(map(expand_path, load_config().tools.folders))


def _open_panel(servers: Callable[[], Servers], ui: Ui) -> Any:
    from chatlm_mcp.screens.panel import McpPanel

    return McpPanel(servers())


plugin = McpPlugin()
