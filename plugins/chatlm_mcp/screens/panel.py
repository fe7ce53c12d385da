"""The panel `/mcp`: every server with its health, what it offers, and its log."""

from __future__ import annotations

from dataclasses import dataclass

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm import ChatlmError, Ui, one_line
from chatlm.plugin_kit.screens import MUTED_STYLE
from chatlm_mcp.listing import KnownServer, Listing
from chatlm_mcp.server import Health, Server
from chatlm_mcp.server_config import config_path
from chatlm_mcp.servers import Servers

REFRESH_SECONDS = 2.0

LOG_LINES = 12

_MARKS = {
    "running": ("●", "$text-success"),
    "starting": ("◌", "$text-warning"),
    "not started": ("○", "$text-muted"),
    "off": ("–", "$text-muted"),
    "failed": ("✗", "$text-error"),
}
"""A sign and its style for each state."""


@dataclass(frozen=True)
class ServerRow:
    """What the panel shows of a server."""

    server: Server
    health: Health
    listing: Listing | None
    log: tuple[str, ...]


class McpPanel(Vertical):
    """The servers of mcp.json. The highlighted one is expanded; Enter starts it again.

    Args:
        servers: the servers.
    """

    DEFAULT_CSS = """
    McpPanel {
        height: 1fr;

        & > .head, & > .keys { height: auto; color: $text-muted; }
        & > OptionList {
            height: 1fr;
            border: none;
            padding: 0;
            background: $background;
            & > .option-list--option-highlighted {
                background: $foreground 6%; color: $foreground; text-style: none;
            }
            &:focus { border: none; background-tint: $foreground 0%; }
            &:focus > .option-list--option-highlighted {
                background: $primary 18%; color: $foreground; text-style: none;
            }
        }
    }
    """

    def __init__(self, servers: Servers) -> None:
        super().__init__()
        self._servers = servers
        self._rows: list[ServerRow] = []
        self._problem = ""
        """Why mcp.json cannot be read."""

    def compose(self) -> ComposeResult:
        """Build the list and the key hints."""
        yield Static(classes="head")
        yield OptionList(markup=False)
        yield Static(
            Content.assemble(
                ("↑↓", "bold $text"), " select · ", ("enter", "bold $text"), " start again"
            ),
            classes="keys",
        )

    def on_mount(self) -> None:
        """Follow the servers' health while the panel is open."""
        self.set_interval(REFRESH_SECONDS, self._refresh)

    def show(self, ui: Ui) -> None:
        """Show the servers."""
        self._refresh()

    @work(thread=True, exclusive=True, exit_on_error=False)
    def _refresh(self) -> None:
        """Look at the servers, in a thread: their lists and logs are files."""
        rows, problem = [], ""
        try:
            for server in self._servers.all():
                log = tuple(server.log.tail(LOG_LINES))
                listing = KnownServer(server.config).listing
                rows.append(ServerRow(server, server.health(), listing, log))
        except ChatlmError as error:
            problem = str(error)
        self.app.call_from_thread(self._draw, rows, problem)

    def _draw(self, rows: list[ServerRow], problem: str) -> None:
        if not self.is_mounted:
            return
        options = self.query_one(OptionList)
        highlighted = options.highlighted or 0
        if (rows, problem) == (self._rows, self._problem) and rows:
            return
        self._rows, self._problem = rows, problem
        self.query_one(".head", Static).update(self._head())
        self.query_one(".keys").display = bool(rows)
        options.display = bool(rows)
        options.set_options(self._option(at, at == highlighted) for at in range(len(rows)))
        options.highlighted = min(highlighted, len(rows) - 1) if rows else None

    def _head(self) -> str:
        if self._problem:
            return self._problem
        if not self._rows:
            return (
                "No MCP servers yet. Add one in the shell:\n"
                "chatlm mcp add NAME -- COMMAND …\n\n"
                f"They are kept in {config_path()}"
            )
        running = sum(row.health.state == "running" for row in self._rows)
        return f"{len(self._rows)} servers, {running} running. The others start when needed."

    def _option(self, at: int, expanded: bool) -> Option:
        row = self._rows[at]
        mark, style = _MARKS[row.health.state]
        lines = [
            Content.assemble(
                (f"{mark} ", style), (row.server.config.name, "bold"), f"  {row.health.state}"
            )
        ]
        if row.health.reason:
            lines.append(Content.styled(f"  {one_line(row.health.reason, 200)}", "$text-error"))
        lines.append(Content.styled(f"  {_describe(row)}", MUTED_STYLE))
        if expanded:
            lines += [Content(f"  {one_line(row.server.config.target, 100)}")]
            if row.listing is not None:
                for tool in row.listing.tools:
                    hints = f" ({', '.join(tool.hints)})" if tool.hints else ""
                    lines.append(Content(f"  · {one_line(tool.name, 40)}{hints}"))
                lines += [Content(f"  left out: {text}") for text in row.listing.left_out]
            if row.log:
                lines.append(Content.styled("  log", "bold"))
                lines += [
                    Content.styled(f"  {one_line(line, 200)}", MUTED_STYLE) for line in row.log
                ]
        return Option(Content("\n").join(lines), id=str(at))

    @on(OptionList.OptionHighlighted)
    def _expand(self, event: OptionList.OptionHighlighted) -> None:
        options = self.query_one(OptionList)
        for at in range(len(self._rows)):
            prompt = self._option(at, at == event.option_index).prompt
            options.replace_option_prompt_at_index(at, prompt)

    @on(OptionList.OptionSelected)
    def _start(self, event: OptionList.OptionSelected) -> None:
        self._start_again(self._rows[event.option_index].server)

    @work(thread=True, exit_on_error=False)
    def _start_again(self, server: Server) -> None:
        server.restart()
        try:
            self._servers.live_listing(server)
        except ChatlmError as error:
            self.app.call_from_thread(self.app.notify, str(error), severity="warning", markup=False)
        self.app.call_from_thread(self._refresh)


def _describe(row: ServerRow) -> str:
    """Return what a server offers and what it did, such as `3 tools · 2 calls`."""
    facts = []
    if row.listing is not None:
        for kind in ("tools", "resources", "prompts"):
            if count := len(getattr(row.listing, kind)):
                facts.append(f"{count} {kind if count > 1 else kind[:-1]}")
    if row.health.calls:
        facts.append(f"{row.health.calls} requests")
    if row.health.last_seconds is not None:
        facts.append(f"last {row.health.last_seconds:.1f} s")
    if row.health.wait_seconds:
        facts.append(f"again in {row.health.wait_seconds:.0f} s")
    return " · ".join(facts) or "never listed"
