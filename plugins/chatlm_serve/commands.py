"""`chatlm serve` and `chatlm web`."""

from __future__ import annotations

import socket
from contextlib import closing

import click

from chatlm import UsageError, escape_controls, load_config, load_plugin_settings, side_chats
from chatlm_serve import PLUGIN
from chatlm_serve.http_guard import bind_socket, http_url, is_loopback
from chatlm_serve.plugin import Settings

LOOPBACK = "127.0.0.1"


@click.command()
@click.option("--host", default=LOOPBACK, help=f"Listen at this address. Default: {LOOPBACK}")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    help="Listen at this port; 0 takes any that is free. Default: 8000",
)
@click.option(
    "--token",
    metavar="TEXT",
    envvar="CHATLM_SERVE_TOKEN",
    default="",
    help="Clients must send it; better said by CHATLM_SERVE_TOKEN, which others do not see.",
)
@click.option("-m", "--model", metavar="NAME", help="Answer with this model.")  # fmt: skip
def serve(host: str, port: int, token: str, model: str | None) -> None:
    """Answer other programs by an OpenAI-compatible endpoint.

    Adapters, templates and indices are chosen by the model's name: GET /v1/models lists all.

    Example: chatlm serve --port 8080
    """
    _check_token(host, token)
    config = load_config(model=model)
    settings = load_plugin_settings(PLUGIN, Settings)
    from chatlm_serve.api import Api, ApiServer

    with (
        closing(bind_socket(host, port)) as listener,
        side_chats(config, lambda words: click.echo(escape_controls(words), err=True)) as chats,
    ):
        api = Api(chats, settings.queue, settings.at_once)
        _announce(f"{api.model} answers", host, listener, "/v1")
        ApiServer(api, loopback=is_loopback(host), token=token).run([listener])


@click.command()
@click.option("--host", default=LOOPBACK, help=f"Listen at this address. Default: {LOOPBACK}")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8001,
    help="Listen at this port; 0 takes any that is free. Default: 8001",
)
@click.option(
    "--anyone",
    is_flag=True,
    help="Let anyone who reaches --host read and write your chats and files.",
)
@click.option("-m", "--model", metavar="NAME", help="Chat with this model.")  # fmt: skip
def web(host: str, port: int, anyone: bool, model: str | None) -> None:
    """Open the chat in a browser.

    Each page that is open is a chatlm of its own, on the same saved chats.

    Example: chatlm web
    """
    if not is_loopback(host) and not anyone:
        raise UsageError(
            f"Whoever reaches {host} could read your chats and, by @file, your files: "
            "the page asks for no password.",
            hint="From another machine, better: ssh -L 8001:127.0.0.1:8001 THIS-MACHINE\n"
            "If you want it all the same: --anyone",
        )
    load_config(model=model)  # what is wrong with it shows here, not on the page
    pages = load_plugin_settings(PLUGIN, Settings).pages
    from chatlm_serve.page import serve_pages

    with closing(bind_socket(host, port)) as listener:
        _announce("The chat is", host, listener)
        serve_pages(host, listener, model, pages)


def _announce(subject: str, host: str, listener: socket.socket, path: str = "") -> None:
    """Say where something is; whoever goes there at once is not turned away."""
    listener.listen()
    address = http_url(host, listener.getsockname()[1])
    click.echo(escape_controls(f"{subject} at {address}{path} (Ctrl-C ends it)"), err=True)


def _check_token(host: str, token: str) -> None:
    if token.split() != [token] and token:
        raise UsageError("The token must not hold blanks.", hint="Make one: openssl rand -hex 32")
    if not token and not is_loopback(host):
        raise UsageError(
            f"Whoever reaches {host} could use this model, so a token is needed.",
            hint="Set one: CHATLM_SERVE_TOKEN=$(openssl rand -hex 32), which clients send as "
            "their API key.\nFor this machine alone, leave --host out.",
        )
