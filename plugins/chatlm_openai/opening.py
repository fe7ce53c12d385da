"""Opens a model on a server by what stands behind `openai:`."""

from __future__ import annotations

from chatlm import EngineInfo, Sampling, load_config, own_settings
from chatlm_openai import PLUGIN
from chatlm_openai.background import Background
from chatlm_openai.chunks import RemoteModel
from chatlm_openai.endpoints import Endpoint, split
from chatlm_openai.engine import OpenAIEngine
from chatlm_openai.server import Server
from chatlm_openai.settings import Settings

DEFAULTS = Sampling(max_tokens=1024)
"""What is asked for where nobody says anything: all but the length is left to the server."""

ASSUMED = 8192
"""Tokens of context where neither the server nor the person says how many."""


def opened(name: str) -> OpenAIEngine:
    """The engine of a model.

    Args:
        name: MODEL@URL, MODEL@ENDPOINT, or MODEL on the first endpoint.

    Raises:
        UsageError: there is no such endpoint.
        EngineError: the server cannot be reached, or refuses.
    """
    settings = own_settings(PLUGIN, Settings)
    model, endpoint = split(name, settings.all_endpoints())
    server = Server(endpoint, settings)
    background = Background()
    try:
        found = background.run(_found(server, model))
    except BaseException:
        background.close()
        raise
    info = _info(name, endpoint, settings, found.context if found else None)
    return OpenAIEngine(background, server, model, info, in_flight=settings.in_flight)


async def _found(server: Server, model: str) -> RemoteModel | None:
    """What the server says of a model; None where it lists none, or not this one."""
    return next((each for each in await server.listed() or () if each.name == model), None)


def _info(name: str, endpoint: Endpoint, settings: Settings, said: int | None) -> EngineInfo:
    most = load_config().context
    known = said or settings.context
    notes = () if known or most else (_assumed(endpoint),)
    return EngineInfo(
        model=f"{PLUGIN}:{name}",
        device=endpoint.host,
        dtype="remote",
        context_length=min(filter(None, (known, most)), default=ASSUMED),
        prompt_format="the server's",
        defaults=DEFAULTS,
        notes=notes,
    )


def _assumed(endpoint: Endpoint) -> str:
    return (
        f"{endpoint.told} does not say how much context the model has; {ASSUMED:,} tokens are "
        "assumed. What it really has: chatlm config set plugins.openai.context N"
    )
