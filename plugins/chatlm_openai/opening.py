"""Opens a model on a server by what stands behind `openai:`."""

from __future__ import annotations

from collections.abc import Iterable

from chatlm import EngineInfo, Sampling, load_config, own_settings
from chatlm_openai import PLUGIN
from chatlm_openai.adapters import adapters_of
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
        there = background.run(server.listed()) or []
    except BaseException:
        background.close()
        raise
    context = _context(model, there)
    info = _info(name, endpoint, settings, context, adapters_of(model, there))
    return OpenAIEngine(background, server, model, info, in_flight=settings.in_flight)


def _context(model: str, there: Iterable[RemoteModel]) -> int | None:
    """What the server says of a model's context; an adapter has that of its base."""
    named = {each.name: each for each in there}
    found = named.get(model)
    base = named.get(found.parent) if found else None
    return next((each.context for each in (found, base) if each and each.context), None)


def _info(
    name: str, endpoint: Endpoint, settings: Settings, said: int | None, adapters: tuple[str, ...]
) -> EngineInfo:
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
        adapters=adapters,
    )


def _assumed(endpoint: Endpoint) -> str:
    return (
        f"{endpoint.told} does not say how much context the model has; {ASSUMED:,} tokens are "
        "assumed. What it really has: chatlm config set plugins.openai.context N"
    )
