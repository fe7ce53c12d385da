"""The commands `chatlm mcp …`."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import (
    ChatlmError,
    UsageError,
    dump_json,
    escape_controls,
    load_plugin_settings,
    one_line,
)
from chatlm.plugin_kit.options import complete_names, json_option
from chatlm_mcp import PLUGIN
from chatlm_mcp.server_config import (
    ServerConfig,
    config_path,
    find_server,
    load_servers,
    parse_server,
    read_servers_of,
    remove_server,
    save_server,
)
from chatlm_mcp.settings import Settings

if TYPE_CHECKING:
    from chatlm_mcp.listing import Listing

_name_argument = click.argument(
    "name", shell_complete=complete_names(lambda: [server.name for server in load_servers()])
)


@click.group()
def mcp() -> None:
    """Manage MCP servers, or serve chatlm to MCP clients.

    Tools, resources and prompts of the servers can be used in every chat. The servers are kept
    in mcp.json beside config.toml, in the form of mcpServers that other programs use.

    Example: chatlm mcp add time -- uvx mcp-server-time
    """


@mcp.command()
@click.argument("name", required=False)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("--url", metavar="URL", help="Reach the server here instead of running a command.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Send this header with each request; repeatable.",
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME=VALUE",
    help="Give the server this environment variable; ${VAR} stands for chatlm's own; repeatable.",
)
@click.option("--cwd", metavar="FOLDER", help="Run the command in this folder.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add the servers of another program's file: all, or the one called NAME.",
)
@click.option("--no-test", is_flag=True, help="Do not start the server.")
def add(
    name: str | None,
    command: tuple[str, ...],
    url: str | None,
    headers: tuple[str, ...],
    variables: tuple[str, ...],
    cwd: str | None,
    source: Path | None,
    no_test: bool,
) -> None:
    """Add a server and see whether it works; one of the same name is replaced.

    Values such as ${TOKEN} are read from the environment whenever the server starts, so that no
    secret has to be in the file.

    Example: chatlm mcp add files -- npx -y @modelcontextprotocol/server-filesystem ~/notes
    """
    if source is not None:
        if command or url:
            raise UsageError("--from takes servers of a file, not a command or --url.")
        added = _add_from(source, name)
    else:
        if name is None:
            raise UsageError("The server needs a name.", hint="chatlm mcp add NAME -- COMMAND")
        values: dict[str, Any] = {"env": _pairs(variables, "--env")}
        values |= {"headers": _pairs(headers, "--header")}
        if url:
            values["url"] = url
        if command:
            values |= {"command": command[0], "args": list(command[1:]), "cwd": cwd or ""}
        server = parse_server(name, values)
        if server.problem:
            raise UsageError(
                f"The server {one_line(name, 60)} {server.problem}.",
                hint="chatlm mcp add NAME -- COMMAND, or: chatlm mcp add NAME --url URL",
            )
        save_server(server)
        added = [server]
    for server in added:
        click.echo(f"Added {server.name} to {config_path()}")
    results = [] if no_test else [_test(server) for server in added if not server.disabled]
    if not all(results):
        raise click.exceptions.Exit(1)


@mcp.command("list")
@json_option
def list_servers(as_json: bool) -> None:
    """List the servers, with what they offered when they were used last.

    Example: chatlm mcp list --json
    """
    from chatlm_mcp.listing import KnownServer

    servers = load_servers()
    listings = [KnownServer(server).listing for server in servers]
    if as_json:
        rows = [_row(server, listing) for server, listing in zip(servers, listings, strict=True)]
        click.echo(dump_json(rows))
        return
    if not servers:
        click.echo("No servers. Add one: chatlm mcp add NAME -- COMMAND")
    width = max((len(server.name) for server in servers), default=0)
    for server, listing in zip(servers, listings, strict=True):
        state = server.problem or ("off" if server.disabled else _counts(listing))
        click.echo(f"{server.name:<{width}}  {state}  {server.target}".rstrip())


@mcp.command()
@_name_argument
def test(name: str) -> None:
    """Start a server and list what it offers.

    Example: chatlm mcp test files
    """
    if not _test(find_server(name), verbose=True):
        raise click.exceptions.Exit(1)


@mcp.command()
@_name_argument
@click.option("--no-browser", is_flag=True, help="Print the address instead of opening it.")
def login(name: str, no_browser: bool) -> None:
    """Sign in to a server behind a URL that wants OAuth.

    Example: chatlm mcp login issues
    """
    from chatlm_mcp.server import require_sdk
    from chatlm_mcp.sign_in import sign_in

    def open_page(url: str) -> None:
        click.echo(f"Sign in here: {escape_controls(url)}")
        if not no_browser:
            click.launch(url)

    require_sdk()
    config = find_server(name)
    sign_in(config.expanded(), open_page)
    click.echo(f"Signed in to {name}.")
    if not _test(config):
        raise click.exceptions.Exit(1)


@mcp.command()
@_name_argument
def remove(name: str) -> None:
    """Remove a server, and what chatlm remembers of it.

    Example: chatlm mcp remove files
    """
    from chatlm_mcp.listing import KnownServer
    from chatlm_mcp.server_log import log_path
    from chatlm_mcp.sign_in import StoredTokens

    remove_server(name)
    KnownServer(ServerConfig(name)).forget()
    StoredTokens(ServerConfig(name)).delete()
    for path in (log_path(name), log_path(name).with_suffix(".old.log")):
        path.unlink(missing_ok=True)
    click.echo(f"Removed {name}.")


@mcp.command()
@click.option(
    "--http",
    is_flag=True,
    help="Serve over HTTP on this machine instead of standard input and output.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8766,
    help="With --http: the port. Default: 8766",
)
@click.option("--without-chats", is_flag=True, help="Do not offer the search in your chats.")
def serve(http: bool, port: int, without_chats: bool) -> None:
    """Offer your documents, chats and arena ratings to other programs, read-only.

    Runs until the other program closes its end. Programs start it by an entry such as
    {"mcpServers": {"chatlm": {"command": "chatlm", "args": ["mcp", "serve"]}}}.

    Example: chatlm mcp serve
    """
    from chatlm_mcp.serve import run_server
    from chatlm_mcp.server import require_sdk

    require_sdk()
    run_server(port=port if http else None, with_chats=not without_chats)


def _add_from(source: Path, name: str | None) -> list[ServerConfig]:
    found = read_servers_of(source)
    if name is not None:
        found = [server for server in found if server.name == name]
        if not found:
            raise UsageError(f"{source} has no server {one_line(name, 60)}.")
    usable = [server for server in found if not server.problem]
    for server in found:
        if server.problem:
            click.echo(escape_controls(f"{server.name} {server.problem}; left out."), err=True)
    if not usable:
        raise UsageError(f"{one_line(str(source), 200)} has no server that chatlm can use.")
    for server in usable:
        save_server(server)
    return usable


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{option} {one_line(text, 40)!r} has no =.", f"{option} NAME=VALUE")
        values[name.strip()] = value
    return values


def _test(config: ServerConfig, verbose: bool = False) -> bool:
    """Start a server and print what it offers, or why it does not work."""
    from chatlm_mcp.listing import KnownServer
    from chatlm_mcp.server import Server

    started = time.monotonic()
    with closing(Server(config, load_plugin_settings(PLUGIN, Settings))) as server:
        try:
            listing = server.list_all()
        except ChatlmError as error:
            click.echo(escape_controls(f"Error: {error}"), err=True)
            for line in server.log.tail(12):
                click.echo(f"  {line}", err=True)
            return False
    KnownServer(config).remember(listing)
    version = f" ({listing.version})" if listing.version else ""
    click.echo(f"{config.name}{version}: {_counts(listing)}, in {time.monotonic() - started:.1f} s")
    for text in listing.left_out:
        click.echo(escape_controls(f"  left out: {text}"))
    if verbose:
        for tool in listing.tools:
            hints = f" ({', '.join(tool.hints)})" if tool.hints else ""
            click.echo(f"  {one_line(tool.name, 40)}{hints}: {one_line(tool.description, 90)}")
        for resource in listing.resources:
            click.echo(f"  @{config.name}:{one_line(resource.uri, 90)}")
        for template in listing.templates:
            click.echo(f"  @{config.name}:{one_line(template.example, 90)}")
        for prompt in listing.prompts:
            click.echo(f"  prompt {config.name}:{one_line(prompt.name, 60)}")
    return True


def _counts(listing: Listing | None) -> str:
    if listing is None:
        return "not tested"
    return ", ".join(listing.counts()) or "offers nothing"


def _row(server: ServerConfig, listing: Listing | None) -> dict[str, Any]:
    return {
        "name": server.name,
        "transport": server.transport,
        "target": server.target,
        "disabled": server.disabled,
        "problem": server.problem or None,
        "tools": [tool.name for tool in listing.tools] if listing else None,
        "resources": [resource.uri for resource in listing.resources] if listing else None,
        "templates": [template.example for template in listing.templates] if listing else None,
        "prompts": [prompt.name for prompt in listing.prompts] if listing else None,
    }
