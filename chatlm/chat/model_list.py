"""List of the models of plugins' engines, as `models list` and `/model` show it."""

from __future__ import annotations

from dataclasses import dataclass

from chatlm.hub.installed import ModelDetails
from chatlm.plugin_host.faults import Fault
from chatlm.plugin_host.host import PluginHost
from chatlm.types.engine import ModelListing


@dataclass(frozen=True)
class PluginModels:
    """What plugins answered when they were asked for models."""

    models: tuple[ModelDetails, ...] = ()
    faults: tuple[Fault, ...] = ()
    """The plugins that failed."""


def list_plugin_models(plugins: PluginHost) -> PluginModels:
    """Ask all plugins for their models, which may wait for servers."""
    listings: list[ModelListing] = plugins.call_hook("list_models")
    faults = tuple(plugins.take_faults())
    return PluginModels(tuple(map(ModelDetails.from_listing, listings)), faults)
