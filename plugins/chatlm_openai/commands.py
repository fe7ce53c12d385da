"""The commands `chatlm openai …`."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chatlm import UsageError, dump_json, escape_controls, load_plugin_settings, one_line
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

    ENDPOINT is a name from the setting plugins.openai.endpoints, or a base URL; left out, it is the
    first of that setting.

    Example: chatlm openai models http://127.0.0.1:8000/v1
    """


@openai.command()
@_endpoint
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(endpoint: str, as_json: bool) -> None:
    """List the models that a server has, adapters among them.

    Example: chatlm openai models http://127.0.0.1:8000/v1
    """
    where = _find_endpoint(endpoint)
    found = _list_models(where)
    if as_json:
        click.echo(dump_json([_model_row(model, where) for model in found]))
        return
    if not found:
        click.echo(f"{where.display_name} has no models.")
    width = max((len(_display_name(model.name)) for model in found), default=0)
    for model in found:
        parts = [f"{model.context_length:,} tokens" if model.context_length else ""]
        parts.append(f"on {_display_name(model.parent)}" if model.parent else "")
        told = ", ".join(filter(None, parts))
        click.echo(f"{_display_name(model.name):<{width}}  {told}".rstrip())


@openai.command()
@_endpoint
@click.option("-m", "--model", metavar="NAME", help="Ask this one; else the first it has.")
def check(endpoint: str, model: str | None) -> None:
    """See whether a server can be reached, takes the key, and answers.

    Example: chatlm openai check http://127.0.0.1:8000/v1
    """
    from chatlm import Delta, Finished, Message, Request, Sampling
    from chatlm_openai.engine import open_engine

    where = _find_endpoint(endpoint)
    click.echo(f"Key: {_describe_key(where)}")
    found = _list_models(where)
    click.echo(f"Models: {', '.join(_display_name(each.name) for each in found) or 'none'}")
    name = model or next((each.name for each in found), "")
    if not name:
        raise UsageError(f"{where.display_name} has no model.", hint="Name one by -m.")
    request = Request((Message("user", "Say hello."),), Sampling(max_tokens=16))
    said, usage = "", None
    with closing(open_engine(f"{name}@{where.display_name}")) as engine:
        click.echo(f"Context: {engine.info.context_length:,} tokens")
        for note in engine.info.notes:
            click.echo(escape_controls(note))
        started = time.monotonic()
        with closing(engine.stream(request)) as events:
            for event in events:
                if isinstance(event, Delta):
                    said += event.text
                elif isinstance(event, Finished):
                    usage = event.usage
    taken = time.monotonic() - started
    counted = f", {usage.completion_tokens} tokens" if usage else ""
    click.echo(f"{_display_name(name)} answers in {taken:.1f} s{counted}: {one_line(said, 60)}")


@openai.command()
@click.argument("endpoint")
@click.argument("name")
@click.argument("path")
def load_adapter(endpoint: str, name: str, path: str) -> None:
    """Let a vLLM server load a LoRA adapter while it runs.

    PATH is the adapter's folder on the server's machine; NAME is what it is called from then on.

    Example: chatlm openai load-adapter http://gpu:8000/v1 pirate /srv/adapters/pirate
    """
    from chatlm_openai.adapters import load

    where = _find_endpoint(endpoint)
    _run_on_server(where, lambda server: load(server, name, path))
    click.echo(
        f"{_display_name(name)} is loaded. Once its base is opened anew: /lora "
        f"{_display_name(name)}; or as a "
        f"model: chatlm -m {PLUGIN}:{_display_name(name)}@{where.display_name}"
    )


@openai.command()
@click.argument("endpoint")
@click.argument("name")
def unload_adapter(endpoint: str, name: str) -> None:
    """Let a vLLM server forget a LoRA adapter.

    Example: chatlm openai unload-adapter http://gpu:8000/v1 pirate
    """
    from chatlm_openai.adapters import unload

    _run_on_server(_find_endpoint(endpoint), lambda server: unload(server, name))
    click.echo(f"{_display_name(name)} is not loaded any more.")


def _find_endpoint(text: str) -> Endpoint:
    return find_endpoint(text, load_plugin_settings(PLUGIN, Settings).parse_endpoints())


def _list_models(endpoint: Endpoint) -> list[RemoteModel]:
    return _run_on_server(endpoint, lambda server: server.list_models())


def _run_on_server(endpoint: Endpoint, work: Callable[[ServerClient], Coroutine[Any, Any, T]]) -> T:
    """Do something with a server."""
    from chatlm_openai.client import EventLoopThread, ServerClient

    with closing(EventLoopThread()) as background:
        return background.run(work(ServerClient(endpoint, load_plugin_settings(PLUGIN, Settings))))


def _describe_key(endpoint: Endpoint) -> str:
    """Whether there is a key, and never which."""
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
