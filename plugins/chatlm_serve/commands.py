"""The commands `chatlm serve` and `chatlm web`."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing

import click

from chatlm import (
    Config,
    UsageError,
    escape_controls,
    load_config,
    load_plugin_settings,
    side_chats,
)
from chatlm.plugin_kit.progress import status_lines
from chatlm_serve import PLUGIN
from chatlm_serve.endpoints import help_text
from chatlm_serve.http_guard import is_loopback
from chatlm_serve.listener import bind_socket, http_url
from chatlm_serve.plugin import Settings, keep_seconds

LOOPBACK = "127.0.0.1"

OLLAMA_PORT = 11434


@click.command(epilog=help_text())
@click.option("--host", default=LOOPBACK, help=f"Listen at this address. Default: {LOOPBACK}")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8471,
    help="Listen on this port; 0 picks a free one. Default: 8471",
)
@click.option(
    "--token",
    metavar="TEXT",
    envvar="CHATLM_SERVE_TOKEN",
    default="",
    help="Token that clients must send. Safer: CHATLM_SERVE_TOKEN, hidden from other users.",
)
@click.option("--ollama", is_flag=True, help=f"Listen on Ollama's port {OLLAMA_PORT} as well.")
@click.option("-m", "--model", metavar="NAME", help="Answer with this model.")  # fmt: skip
def serve(host: str, port: int, token: str, ollama: bool, model: str | None) -> None:
    """Serve your models to programs that speak OpenAI's, Ollama's or Anthropic's protocol.

    A request may name any installed model; it is loaded when it is needed. The name also selects
    adapters, templates and indices. GET /v1/models lists all names, and a browser shows the state
    of the server at its address.

    Example: chatlm serve --port 8080
    """
    _check_token(host, token)
    config = load_config(model=model)
    settings = load_plugin_settings(PLUGIN, Settings)
    _check_method(config)
    from chatlm_serve.api import Api
    from chatlm_serve.server import ApiServer

    with ExitStack() as stack:
        listener = stack.enter_context(closing(bind_socket(host, port)))
        listeners = [listener]
        if ollama:
            hint = "Ollama itself may be running: stop it, or omit --ollama."
            second = bind_socket(host, OLLAMA_PORT, hint)
            listeners.append(stack.enter_context(closing(second)))
        chats = stack.enter_context(side_chats(config, status_lines(), frees_models=False))
        api = Api(chats, settings.queue, settings.at_once, keep_seconds(settings.keep_alive))
        _announce(f"Serving {api.replies.info.model}", host, listener, "/v1")
        for each in listeners[1:]:
            _announce("Ollama's clients find it", host, each)
        server = ApiServer(
            api,
            loopback=is_loopback(host),
            token=token,
            max_connections=settings.connections,
            receive_seconds=settings.receive_seconds,
        )
        server.run(listeners)


@click.command()
@click.option("--host", default=LOOPBACK, help=f"Listen at this address. Default: {LOOPBACK}")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8001,
    help="Listen on this port; 0 picks a free one. Default: 8001",
)
@click.option(
    "--anyone",
    is_flag=True,
    help="Let anyone who can reach --host read and write your chats and files.",
)
@click.option("-m", "--model", metavar="NAME", help="Use this model.")  # fmt: skip
def web(host: str, port: int, anyone: bool, model: str | None) -> None:
    """Open the chat in a browser.

    Each open page runs its own chatlm on the same saved chats.

    Example: chatlm web
    """
    if not is_loopback(host) and not anyone:
        raise UsageError(
            f"Anyone who can reach {host} could read your chats and, with @file, your files: "
            "the page has no password.",
            hint="From another machine, use: ssh -L 8001:127.0.0.1:8001 THIS-MACHINE\n"
            "To allow it anyway: --anyone",
        )
    load_config(model=model)  # report errors here rather than on the page
    pages = load_plugin_settings(PLUGIN, Settings).pages
    from chatlm_serve.page import serve_pages

    with closing(bind_socket(host, port)) as listener:
        _announce("Serving the chat", host, listener)
        serve_pages(host, listener, model, pages)


def _announce(subject: str, host: str, listener: socket.socket, path: str = "") -> None:
    """Start listening, then print the address."""
    listener.listen()
    address = http_url(host, listener.getsockname()[1])
    click.echo(escape_controls(f"{subject} at {address}{path} (Ctrl-C to stop)"), err=True)


def _check_method(config: Config) -> None:
    if config.sampling.reply_method:
        raise UsageError(
            f"The setting method = {config.sampling.method} runs the model several times for each "
            "reply, and the server answers with single ones.",
            hint="Turn it off: chatlm config set sampling.method off",
        )


def _check_token(host: str, token: str) -> None:
    if token.split() != [token] and token:
        raise UsageError(
            "The token must not contain spaces.", hint="Create one: openssl rand -hex 32"
        )
    if not token and not is_loopback(host):
        raise UsageError(
            f"Anyone who can reach {host} could use this model, so a token is required.",
            hint="Set one: CHATLM_SERVE_TOKEN=$(openssl rand -hex 32), which clients send as "
            "their API key.\nTo serve this machine only, omit --host.",
        )
