"""The panel `/mcp` shows every server with its health, what it offers, and its log."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.tui.engine_loader import Ready
from chatlm_mcp.listing import KnownServer, ListedPrompt, ListedResource, ListedTool, Listing
from chatlm_mcp.plugin import McpPlugin
from chatlm_mcp.screens.panel import McpPanel
from chatlm_mcp.server import Health, Server
from chatlm_mcp.server_config import ServerConfig, parse_server
from chatlm_mcp.servers import Servers
from tests.tui.cards import SnapCompare
from tests.tui.support import app_of, chat_of, make_app, run, until

NOTES = ServerConfig("notes", "uvx", ("mcp-server-notes", "~/notes"))
HEALTH = {
    "notes": Health("running", "", 1, 4, 0.2),
    "weather": Health("failed", "it ended with code 1", 3, 0, None, 7.0),
    "time": Health("not started"),
}
"""All that a picture must not leave to the machine."""


def tool(name: str, *hints: str) -> ListedTool:
    return ListedTool(name, f"The tool {name}.", {"type": "object"}, hints)


@pytest.fixture
def servers(home: Path, monkeypatch: pytest.MonkeyPatch) -> Servers:
    """Five servers in different states; none is run."""
    listing = Listing(
        tools=(tool("search", "read-only"), tool("write", "destructive"), tool("tidy_up")),
        resources=(ListedResource("notes://today", "today"),),
        prompts=(ListedPrompt("summary"),),
        left_out=("draw: its schema has 312,044 characters",),
        version="notes 1.2",
    )
    KnownServer(NOTES).remember(listing)
    found = Servers(
        configs=(
            NOTES,
            ServerConfig("weather", url="http://127.0.0.1:8931/mcp"),
            ServerConfig("time", "uvx", ("mcp-server-time",)),
            ServerConfig("old", "npx", ("server-old",), disabled=True),
            parse_server("wrong", {"command": "x", "url": "http://127.0.0.1/"}),
        )
    )
    real = Server.health
    monkeypatch.setattr(Server, "health", lambda self: HEALTH.get(self.config.name) or real(self))
    for each in found.all():
        if each.config.name == "notes":
            each.log.write(b"reading ~/notes\n  312 notes\n\x1b[31mtwo cannot be read\x1b[0m\n")
    return found


@pytest.mark.parametrize("theme", ["chatlm-dark", "chatlm-light"])
@pytest.mark.parametrize("size", [(80, 24), (120, 36)], ids=["80x24", "120x36"])
def test_picture_of_the_panel(
    servers: Servers, snap_compare: SnapCompare, size: tuple[int, int], theme: str
) -> None:
    """Look at: a sign for each state, reasons in red, the log without escapes, wrapped lines."""
    host = PluginHost([("mcp", McpPlugin(servers))])
    app = make_app(ScriptedEngine(), plugins=host, theme=theme)

    async def steps(pilot: Pilot[None]) -> None:
        chat_of(pilot).composer.cursor_blink = False
        await until(pilot, lambda: isinstance(chat_of(pilot)._services.engine_state, Ready))
        await run(pilot, "mcp")
        found = app_of(pilot).screen.query(McpPanel)
        await until(pilot, lambda: found and found.first().query_one(OptionList).option_count == 5)
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=steps)
