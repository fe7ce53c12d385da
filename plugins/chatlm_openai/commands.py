"""The commands `chatlm openai …`."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chatlm import UsageError, dump_json, escape_controls, load_plugin_settings, one_line
from chatlm.plugin_kit.options import json_option
from chatlm_openai import PLUGIN
from chatlm_openai.endpoints import Endpoint, find_endpoint
from chatlm_openai.settings import Settings

if TYPE_CHECKING:
    from chatlm_openai.client import ServerClient
    from chatlm_openai.protocol import RemoteModel

T = TypeVar("T")

_endpoint = click.argument("endpoint", default="", metavar="[ENDPOINT]")


@click.group()
def openai() -> None:
    """List and check models on OpenAI-compatible servers.

    ENDPOINT is a name from the setting plugins.openai.endpoints, or a base URL. The default is the
    first endpoint of the setting.

    Example: chatlm openai models http://127.0.0.1:8000/v1
    """


@openai.command()
@_endpoint
@json_option
def models(endpoint: str, as_json: bool) -> None:
    """List the models of a server, including adapters.

    Example: chatlm openai models http://127.0.0.1:8000/v1
    """
    server = _find_endpoint(endpoint)
    remote_models = _list_models(server)
    if as_json:
        click.echo(dump_json([_model_row(remote, server) for remote in remote_models]))
        return
    if not remote_models:
        click.echo(f"{server.display_name} has no models.")
    width = max((len(_display_name(remote.name)) for remote in remote_models), default=0)
    for remote in remote_models:
        details = [f"{remote.context_length:,} tokens" if remote.context_length else ""]
        details.append(f"on {_display_name(remote.parent)}" if remote.parent else "")
        line = f"{_display_name(remote.name):<{width}}  {', '.join(filter(None, details))}"
        click.echo(line.rstrip())


@openai.command()
@_endpoint
@click.option("-m", "--model", metavar="NAME", help="Model to use; default: the server's first.")
def check(endpoint: str, model: str | None) -> None:
    """Check that a server can be reached, accepts the key, and replies.

    Example: chatlm openai check http://127.0.0.1:8000/v1
    """
    from chatlm import Delta, Finished, Message, Request, Sampling, StopReason, Usage
    from chatlm_openai.engine import open_engine

    server = _find_endpoint(endpoint)
    click.echo(f"Key: {_describe_key(server)}")
    names = [remote.name for remote in _list_models(server)]
    click.echo(f"Models: {', '.join(map(_display_name, names)) or 'none'}")
    name = model or next(iter(names), "")
    if not name:
        raise UsageError(f"{server.display_name} lists no models.", hint="Specify one: -m NAME")
    request = Request((Message("user", "Say hello."),), Sampling(max_tokens=16))
    reply, end = "", Finished(StopReason.END, Usage())
    with closing(open_engine(f"{name}@{server.display_name}")) as engine:
        click.echo(f"Context: {engine.info.context_length:,} tokens")
        for note in engine.info.notes:
            click.echo(escape_controls(note))
        started = time.monotonic()
        with closing(engine.stream(request)) as events:
            for event in events:
                if isinstance(event, Delta):
                    reply += event.answer
                elif isinstance(event, Finished):
                    end = event
    seconds = time.monotonic() - started
    answered = bool(reply.strip())
    reason = end.stop_reason.if_answered(answered)
    shown = one_line(reply, 60) if answered else f"({reason.label})"
    tokens = f", {end.usage.completion_tokens} tokens"
    click.echo(f"{_display_name(name)} replied in {seconds:.1f} s{tokens}: {shown}")
    if reason.exit_code:
        raise click.exceptions.Exit(reason.exit_code)


@openai.command()
@click.argument("endpoint")
@click.argument("name")
@click.argument("path")
def load_adapter(endpoint: str, name: str, path: str) -> None:
    """Load a LoRA adapter into a running vLLM server.

    PATH is the adapter's folder on the server's machine, NAME the name it gets.

    Example: chatlm openai load-adapter http://gpu:8000/v1 pirate /srv/adapters/pirate
    """
    from chatlm_openai.adapters import load

    server = _find_endpoint(endpoint)
    _run_on_server(server, lambda client: load(client, name, path))
    shown_name = _display_name(name)
    click.echo(
        f"{shown_name} is loaded. Use it with its base model, once that is opened again: "
        f"/lora {shown_name}; or as a model: "
        f"chatlm -m {PLUGIN}:{shown_name}@{server.display_name}"
    )


@openai.command()
@click.argument("endpoint")
@click.argument("name")
def unload_adapter(endpoint: str, name: str) -> None:
    """Unload a LoRA adapter from a running vLLM server.

    Example: chatlm openai unload-adapter http://gpu:8000/v1 pirate
    """
    from chatlm_openai.adapters import unload

    _run_on_server(_find_endpoint(endpoint), lambda client: unload(client, name))
    click.echo(f"{_display_name(name)} is unloaded.")


def _find_endpoint(text: str) -> Endpoint:
    return find_endpoint(text, load_plugin_settings(PLUGIN, Settings).parse_endpoints())


def _list_models(endpoint: Endpoint) -> list[RemoteModel]:
    return _run_on_server(endpoint, lambda client: client.list_models())


def _run_on_server(endpoint: Endpoint, work: Callable[[ServerClient], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine with a client of the server."""
    from chatlm_openai.client import EventLoopThread, ServerClient

    with closing(EventLoopThread()) as loop_thread:
        return loop_thread.run(work(ServerClient(endpoint, load_plugin_settings(PLUGIN, Settings))))


def _describe_key(endpoint: Endpoint) -> str:
    """Describe where the key was looked for, without revealing it."""
    if endpoint.key():
        return "found"
    return f"none; {endpoint.key_variable} is not set" if endpoint.key_variable else "none"


def _model_row(model: RemoteModel, endpoint: Endpoint) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": f"{PLUGIN}:{model.name}@{endpoint.display_name}",
        "context": model.context_length,
        "parent": model.parent or None,
    }


def _display_name(name: str) -> str:
    return one_line(name, 100)
