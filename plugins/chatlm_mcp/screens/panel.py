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
from chatlm.plugin_kit.screens import MUTED_STYLE, with_commands
from chatlm_mcp.listing import KnownServer, ListedTool, Listing
from chatlm_mcp.server import Health, Server
from chatlm_mcp.server_config import config_path
from chatlm_mcp.servers import Servers

REFRESH_SECONDS = 2.0

LOG_LINES = 12

MAX_NAMES = 40
"""Names shown of what a server offers, of each kind."""

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
                ("tab ↑↓", "bold $text"), " select · ", ("enter", "bold $text"), " restart"
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

    def _head(self) -> Content:
        if self._problem:
            return Content(self._problem)
        if not self._rows:
            return with_commands(
                "No MCP servers yet. Add one in a shell:\n\n"
                "`chatlm mcp add time -- uvx mcp-server-time`\n\n"
                "or take over those of another program:\n\n"
                "`chatlm mcp add --from FILE`\n\n"
            ) + Content(f"They are kept in {config_path()}")
        running = sum(row.health.state == "running" for row in self._rows)
        count = f"{len(self._rows)} server{'s' * (len(self._rows) > 1)}"
        return Content(f"{count}, {running or 'none'} running. A server starts when it is needed.")

    def _option(self, at: int, expanded: bool) -> Option:
        row = self._rows[at]
        mark, style = _MARKS[row.health.state]
        head = Content.assemble(
            (f"{mark} ", style), (row.server.config.name, "bold"), f"  {row.health.state}"
        )
        lines = [*self._reason(row), *_facts(row)]
        lines += self._details(row) if expanded else []
        width = max(self.query_one(OptionList).scrollable_content_region.width - 2, 20)
        indented = [part.pad_left(2) for line in lines for part in line.wrap(width)]
        return Option(Content("\n").join([head, *indented]), id=str(at))

    def _reason(self, row: ServerRow) -> list[Content]:
        if not row.health.reason:
            return []
        return [Content.styled(one_line(row.health.reason, 200), "$text-error")]

    def _details(self, row: ServerRow) -> list[Content]:
        """Return how a server is reached, what it offers and what it wrote, as lines to wrap."""
        lines = [Content(one_line(row.server.config.target, 200))]
        if (listing := row.listing) is not None:
            tools = [_name_tool(tool) for tool in listing.tools]
            kinds = {
                "Tools": tools,
                "Resources": [one_line(each.uri, 60) for each in listing.resources],
                "Templates": [one_line(each.example, 60) for each in listing.templates],
                "Prompts": [one_line(each.name, 40) for each in listing.prompts],
                "Left out": [*listing.left_out],
            }
            for kind, names in kinds.items():
                if names:
                    more = f" and {len(names) - MAX_NAMES} more" * (len(names) > MAX_NAMES)
                    shown = ", ".join(names[:MAX_NAMES]) + more
                    lines.append(Content.assemble((f"{kind}: ", "bold"), shown))
        if row.log:
            lines.append(Content.styled("Log", "bold"))
            # spaces at the beginning of a line are those of the server, such as of a traceback
            lines += [Content.styled(_log_line(line), MUTED_STYLE) for line in row.log]
        return lines

    def on_resize(self) -> None:
        """Wrap the lines anew."""
        self._expand_only(self.query_one(OptionList).highlighted)

    def _expand_only(self, expanded: int | None) -> None:
        options = self.query_one(OptionList)
        for at in range(options.option_count):
            prompt = self._option(at, at == expanded).prompt
            options.replace_option_prompt_at_index(at, prompt)

    @on(OptionList.OptionHighlighted)
    def _expand(self, event: OptionList.OptionHighlighted) -> None:
        self._expand_only(event.option_index)

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


def _facts(row: ServerRow) -> list[Content]:
    """Return what a server offers and what it did, such as `3 tools · 2 requests`."""
    facts = []
    if row.listing is not None:
        facts += row.listing.counts()
    if calls := row.health.calls:
        facts.append(f"{calls} request{'s' * (calls > 1)}")
    if row.health.last_seconds is not None:
        facts.append(f"last {row.health.last_seconds:.1f} s")
    if row.health.wait_seconds:
        facts.append(f"again in {row.health.wait_seconds:.0f} s")
    if row.health.state == "off":
        facts = ["switched off in mcp.json"]
    elif not facts and row.health.state == "not started":
        facts = ["not used yet"]
    return [Content.styled(" · ".join(facts), MUTED_STYLE)] if facts else []


def _name_tool(tool: ListedTool) -> str:
    hints = f" ({', '.join(tool.hints)})" if tool.hints else ""
    return f"{one_line(tool.name, 40)}{hints}"


def _log_line(line: str) -> str:
    indent = len(line) - len(line.lstrip(" "))
    return " " * min(indent, 8) + one_line(line, 200)
