"""Opens a model on a server by what stands behind `openai:`."""

from __future__ import annotations

from collections.abc import Sequence

from chatlm import EngineInfo, Sampling, load_config, one_line, own_settings
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
        listed = background.run(server.listed()) or []
    except BaseException:
        background.close()
        raise
    said = next((each.context for each in listed if each.name == model), None)
    info = _info(name, model, endpoint, settings, listed)
    return OpenAIEngine(
        background, server, model, info,
        in_flight=settings.in_flight, all_context=info.context_length == said,
    )  # fmt: skip


def _info(
    name: str, model: str, endpoint: Endpoint, settings: Settings, listed: Sequence[RemoteModel]
) -> EngineInfo:
    """What is known of a model, by the models that the server says it has."""
    said = {each.name: each.context for each in listed}
    most = load_config().context
    known = said.get(model) or settings.context
    unlisted = [_unlisted(endpoint, model)] if said and model not in said else []
    assumed = [] if known or most else [_assumed(endpoint)]
    return EngineInfo(
        model=f"{PLUGIN}:{name}",
        device=endpoint.host,
        dtype="remote",
        context_length=min(filter(None, (known, most)), default=ASSUMED),
        prompt_format="the server's",
        defaults=DEFAULTS,
        notes=(*unlisted, *assumed),
        adapters=adapters_of(model, listed),
    )


def _unlisted(endpoint: Endpoint, model: str) -> str:
    return (
        f"{endpoint.told} does not list {one_line(model, 80)}; it may answer with another model. "
        f"What it has: chatlm openai models {endpoint.told}"
    )


def _assumed(endpoint: Endpoint) -> str:
    return (
        f"{endpoint.told} does not say how much context the model has; {ASSUMED:,} tokens are "
        "assumed. What it really has: chatlm config set plugins.openai.context N"
    )
