"""List of all models and how they fit, as `models list` and `/model` show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatlm.config.config import Config
from chatlm.errors import ModelError
from chatlm.hub import installed
from chatlm.hub.catalogue import entry_of_repository
from chatlm.hub.gguf_choices import quality
from chatlm.hub.installed import ModelDetails
from chatlm.hub.names import HubGgufTarget, HubTarget, resolve_name
from chatlm.hub.repository import is_offline, read_hub_config, read_repository
from chatlm.plugin_host.faults import Fault
from chatlm.plugin_host.host import PluginHost
from chatlm.types.engine import ModelListing

if TYPE_CHECKING:
    from chatlm.engines.fit import Fit, FitChecker


@dataclass(frozen=True)
class PluginModels:
    """What plugins answered when they were asked for models."""

    models: tuple[ModelDetails, ...] = ()
    faults: tuple[Fault, ...] = ()
    """The plugins that failed."""
    fits: Mapping[str, Fit] = field(default_factory=dict)
    """How local chat models fit this machine, by name; empty if that cannot be told."""


@dataclass(frozen=True)
class FileChoice:
    """A model of a repository, which is not here."""

    name: str
    """ORG/NAME:QUANTIZATION, or ORG/NAME for its safetensors."""
    bytes: int
    quality: str
    """In words."""
    fit: Fit


@dataclass(frozen=True)
class ListedModels:
    """All models: of the catalogue, installed ones, and those of plugins."""

    models: tuple[ModelDetails, ...]
    fits: Mapping[str, Fit] = field(default_factory=dict)
    """How local chat models fit this machine, by name; empty if that cannot be told."""
    faults: tuple[Fault, ...] = ()
    """The plugins that failed."""


def list_plugin_models(plugins: PluginHost) -> PluginModels:
    """Ask all plugins for their models, which may wait for servers."""
    listings: list[ModelListing] = plugins.call_hook("list_models")
    faults = tuple(plugins.take_faults())
    return PluginModels(tuple(map(ModelDetails.from_listing, listings)), faults)


def look_up_model(name: str, config: Config, plugins: PluginHost) -> bool | tuple[FileChoice, ...]:
    """Tell whether a model can be used without a download; may ask the hub.

    Returns:
        The models to choose from where the name is a repository: its safetensors, else its GGUF
        files. False too where nothing is known about them.

    Raises:
        ModelError: there is no such model, or the hub refuses.
    """
    from chatlm.engines.open import is_available

    if is_available(name, plugins):
        return True
    target = resolve_name(name)
    if not isinstance(target, HubTarget) or is_offline():
        return False
    found = read_repository(target.repository, target.revision or "main")
    if found.has_safetensors:
        size, values = found.safetensors_bytes, read_hub_config(found)
        if values is None:
            return False
        fit = fit_checker(config, plugins).check_repository(target.name, values, size)
        return (FileChoice(target.name, size, "as published", fit),) if fit else False
    checker = fit_checker(config, plugins)
    choices = []
    for files in found.ggufs:
        one = HubGgufTarget(target.repository, target.revision, files.quantization).name
        fit = checker.check_files(one, files.bytes, entry_of_repository(target.repository))
        choices.append(FileChoice(one, files.bytes, quality(files.quantization), fit))
    return tuple(choices) or False


def list_models_with_fit(config: Config, plugins: PluginHost) -> ListedModels:
    """List all models and how the local ones fit; may wait for servers and measure the memory."""
    known = installed.list_known_models()
    of_plugins = list_plugin_models(plugins)
    return ListedModels(
        (*known, *of_plugins.models), check_fits(known, config, plugins), of_plugins.faults
    )


def check_fits(models: list[ModelDetails], config: Config, plugins: PluginHost) -> dict[str, Fit]:
    """Return how models fit this machine, by name; nothing if the device of the settings is not
    there."""
    try:
        checker = fit_checker(config, plugins)
    except ModelError:
        return {}
    found = {details.name: checker.check(details) for details in models}
    return {name: fit for name, fit in found.items() if fit is not None}


def fit_checker(config: Config, plugins: PluginHost) -> FitChecker:
    """Return what tells how models fit.

    Raises:
        ModelError: the machine has no such device as the settings name.
    """
    from chatlm.engines.fit import FitChecker
    from chatlm.engines.open import registered_runtimes

    return FitChecker(config, registered_runtimes(plugins).keys())
