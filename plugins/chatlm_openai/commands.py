"""The commands `chatlm openai …`."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chatlm import UsageError, dump_json, one_line, own_settings, visible
from chatlm_openai import PLUGIN
from chatlm_openai.endpoints import Endpoint, located
from chatlm_openai.settings import Settings

if TYPE_CHECKING:
    from chatlm_openai.client import Server
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
    where = _located(endpoint)
    found = _models(where)
    if as_json:
        click.echo(dump_json([_row(model, where) for model in found]))
        return
    if not found:
        click.echo(f"{where.told} has no models.")
    width = max((len(_shown(model.name)) for model in found), default=0)
    for model in found:
        parts = [f"{model.context:,} tokens" if model.context else ""]
        parts.append(f"on {_shown(model.parent)}" if model.parent else "")
        told = ", ".join(filter(None, parts))
        click.echo(f"{_shown(model.name):<{width}}  {told}".rstrip())


@openai.command()
@_endpoint
@click.option("-m", "--model", metavar="NAME", help="Ask this one; else the first it has.")
def check(endpoint: str, model: str | None) -> None:
    """See whether a server can be reached, takes the key, and answers.

    Example: chatlm openai check http://127.0.0.1:8000/v1
    """
    from chatlm import Delta, Finished, Message, Request, Sampling
    from chatlm_openai.engine import opened

    where = _located(endpoint)
    click.echo(f"Key: {_key_told(where)}")
    found = _models(where)
    click.echo(f"Models: {', '.join(_shown(each.name) for each in found) or 'none'}")
    name = model or next((each.name for each in found), "")
    if not name:
        raise UsageError(f"{where.told} has no model.", hint="Name one by -m.")
    request = Request((Message("user", "Say hello."),), Sampling(max_tokens=16))
    said, usage = "", None
    with closing(opened(f"{name}@{where.told}")) as engine:
        click.echo(f"Context: {engine.info.context_length:,} tokens")
        for note in engine.info.notes:
            click.echo(visible(note))
        started = time.monotonic()
        with closing(engine.stream(request)) as events:
            for event in events:
                if isinstance(event, Delta):
                    said += event.text
                elif isinstance(event, Finished):
                    usage = event.usage
    taken = time.monotonic() - started
    counted = f", {usage.completion_tokens} tokens" if usage else ""
    click.echo(f"{_shown(name)} answers in {taken:.1f} s{counted}: {one_line(said, 60)}")


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

    where = _located(endpoint)
    _run(where, lambda server: load(server, name, path))
    click.echo(
        f"{_shown(name)} is loaded. Once its base is opened anew: /lora {_shown(name)}; or as a "
        f"model: chatlm -m {PLUGIN}:{_shown(name)}@{where.told}"
    )


@openai.command()
@click.argument("endpoint")
@click.argument("name")
def unload_adapter(endpoint: str, name: str) -> None:
    """Let a vLLM server forget a LoRA adapter.

    Example: chatlm openai unload-adapter http://gpu:8000/v1 pirate
    """
    from chatlm_openai.adapters import unload

    _run(_located(endpoint), lambda server: unload(server, name))
    click.echo(f"{_shown(name)} is not loaded any more.")


def _located(text: str) -> Endpoint:
    return located(text, own_settings(PLUGIN, Settings).all_endpoints())


def _models(endpoint: Endpoint) -> list[RemoteModel]:
    return _run(endpoint, lambda server: server.models())


def _run(endpoint: Endpoint, work: Callable[[Server], Coroutine[Any, Any, T]]) -> T:
    """Do something with a server."""
    from chatlm_openai.client import Background, Server

    with closing(Background()) as background:
        return background.run(work(Server(endpoint, own_settings(PLUGIN, Settings))))


def _key_told(endpoint: Endpoint) -> str:
    """Whether there is a key, and never which."""
    if endpoint.key():
        return "found"
    return f"none; {endpoint.variable} is not set" if endpoint.variable else "none"


def _row(model: RemoteModel, endpoint: Endpoint) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": f"{PLUGIN}:{model.name}@{endpoint.told}",
        "context": model.context,
        "parent": model.parent or None,
    }


def _shown(name: str) -> str:
    return one_line(name, 100)
