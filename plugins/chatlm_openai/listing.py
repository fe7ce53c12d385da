"""List the models of all configured endpoints and of servers on this machine, concurrently."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from contextlib import closing

from chatlm import ChatlmError, ModelListing, load_plugin_settings
from chatlm_openai import PLUGIN
from chatlm_openai.client import EventLoopThread, ServerClient
from chatlm_openai.endpoints import Endpoint
from chatlm_openai.local_servers import find_local_models, to_listings
from chatlm_openai.settings import Settings
from chatlm_openai.usual_ports import PROGRAMS, Program

LISTING_SECONDS = 3.0
"""Timeout for one endpoint."""

log = logging.getLogger("chatlm.plugins.openai")


def list_endpoint_models() -> list[ModelListing]:
    """Return the models of every endpoint in the settings, adapters included, and those of servers
    that are noticed on this machine."""
    settings = load_plugin_settings(PLUGIN, Settings)
    endpoints = settings.parse_endpoints()
    known = {endpoint.port for endpoint in endpoints if endpoint.is_local}
    local = [each for each in PROGRAMS.values() if each.port not in known]
    if not settings.find_servers:
        local = []
    if not endpoints and not local:
        return []
    quick = dataclasses.replace(settings, patience_seconds=0.0)
    with closing(EventLoopThread()) as loop_thread:
        return loop_thread.run(_list_all(endpoints, local, quick))


async def _list_all(
    endpoints: list[Endpoint], local: list[Program], settings: Settings
) -> list[ModelListing]:
    async with asyncio.TaskGroup() as tasks:
        found = tasks.create_task(find_local_models(local))
        lists = [tasks.create_task(_list_one(endpoint, settings)) for endpoint in endpoints]
    configured = [listing for task in lists for listing in task.result()]
    return [*configured, *to_listings(found.result())]


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
            ("images",) if model.reads_images else (),
        )
        for model in models
    ]
