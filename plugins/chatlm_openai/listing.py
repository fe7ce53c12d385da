"""List the models of all configured endpoints concurrently."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from contextlib import closing

from chatlm import ChatlmError, ModelListing, load_plugin_settings
from chatlm_openai import PLUGIN
from chatlm_openai.client import EventLoopThread, ServerClient
from chatlm_openai.endpoints import Endpoint
from chatlm_openai.settings import Settings

LISTING_SECONDS = 3.0
"""Timeout for one endpoint."""

log = logging.getLogger("chatlm.plugins.openai")


def list_endpoint_models() -> list[ModelListing]:
    """Return the models of every endpoint in the settings, adapters included."""
    settings = load_plugin_settings(PLUGIN, Settings)
    endpoints = settings.parse_endpoints()
    if not endpoints:
        return []
    quick = dataclasses.replace(settings, patience_seconds=0.0)
    with closing(EventLoopThread()) as loop_thread:
        return loop_thread.run(_list_all(endpoints, quick))


async def _list_all(endpoints: list[Endpoint], settings: Settings) -> list[ModelListing]:
    lists = await asyncio.gather(*(_list_one(endpoint, settings) for endpoint in endpoints))
    return [listing for listings in lists for listing in listings]


async def _list_one(endpoint: Endpoint, settings: Settings) -> list[ModelListing]:
    try:
        async with asyncio.timeout(LISTING_SECONDS):
            models = await ServerClient(endpoint, settings).list_models()
    except (ChatlmError, TimeoutError) as error:
        log.warning("cannot list the models of %s: %s", endpoint.display_name, error)
        return []
    return [
        ModelListing(
            f"{PLUGIN}:{model.name}@{endpoint.display_name}",
            f"adapter of {model.parent}" if model.parent else f"on {endpoint.host}",
            model.context_length,
        )
        for model in models
    ]
