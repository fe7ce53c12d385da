"""Opens the engine for a model's name: a plugin's by its scheme, else the local one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm.config.config import Config
from chatlm.errors import ChatlmError, EngineError, ModelError
from chatlm.plugin_host import hook_table
from chatlm.plugin_host.faults import in_words, pass_on
from chatlm.plugin_host.host import PluginHost
from chatlm.types.engine import Engine, EngineInfo, EngineOpener
from chatlm.types.sampling import Sampling

if TYPE_CHECKING:
    from chatlm.hub.jobs import Progress, Stage


LOCAL = "local"
"""The scheme of chatlm's own engine; a model without a scheme is one of its too."""


def open_engine(config: Config, plugins: PluginHost, progress: Progress) -> Engine:
    """Load the model that `config.model` names; a catalogue model that is not here is pulled.

    Args:
        config: names the model and how to run it.
        plugins: may offer engines; `scheme:name` takes the one registered for the scheme.
        progress: told about downloads and conversions.

    Raises:
        ModelError: there is no such model, or it cannot be used.
        OutOfMemoryError: the device's memory does not hold it.
    """
    offer, name = _offer(config.model, plugins)
    if offer is None:
        return _open_local(name, config, plugins, progress)
    try:
        engine = offer.opener(name)
        if not isinstance(engine.info, EngineInfo):
            raise TypeError(f"info is {type(engine.info).__name__}, not EngineInfo")
    except ChatlmError:
        raise
    except BaseException as error:  # a plugin may fail in any way
        pass_on(error)
        raise ModelError(
            f"The plugin {offer.plugin} failed to open {config.model}: {in_words(error)}",
            hint="`chatlm logs` may have more; `chatlm config set model` names another.",
        ) from error
    return engine


def opener(config: Config, plugins: PluginHost) -> Callable[[str, Callable[[str], None]], Engine]:
    """A function that opens any model with the config's other settings, and says how far it is."""

    def open_model(model: str, report: Callable[[str], None]) -> Engine:
        from chatlm.hub.jobs import in_words

        def progress(stage: Stage, done: int, total: int | None) -> None:
            report(in_words(stage, done, total))

        return open_engine(dataclasses.replace(config, model=model), plugins, progress)

    return open_model


def is_here(model: str, plugins: PluginHost) -> bool:
    """Whether `open_engine` can open a model without fetching it; a plugin's own counts as here.

    Raises:
        ModelError: there cannot be such a model, or it is damaged.
    """
    from chatlm.hub import installed

    offer, name = _offer(model, plugins)
    return offer is not None or installed.is_here(name)


def check(model: str, adapter: str, plugins: PluginHost) -> None:
    """See that `open_engine` can open a model without fetching it, and that it has an adapter.

    Args:
        model: as `--model` takes it; a plugin's own counts as here, with its adapters.
        adapter: empty for none.
        plugins: may offer engines and adapters.

    Raises:
        ModelError: the model is not here, or cannot be used.
        ChatlmError: there is no such adapter, or it cannot be used on the model.
    """
    from chatlm.hub import installed

    offer, name = _offer(model, plugins)
    if offer is None:
        if adapter:
            _find_adapter(plugins, name, adapter)
        installed.find_model(name)


@dataclass(frozen=True)
class _Offer:
    plugin: str
    opener: EngineOpener


def _offer(model: str, plugins: PluginHost) -> tuple[_Offer | None, str]:
    """What opens a model, None for a local one, and the name without the scheme."""
    offers: dict[str, _Offer] = {}

    def register_for(plugin: str) -> dict[str, Any]:
        return {"register": partial(_register, offers, plugin)}

    for _ in plugins.offer("register_engines", register_for):
        pass
    scheme, colon, name = model.partition(":")
    if colon and scheme in offers:
        return offers[scheme], name
    return None, name if colon and scheme == LOCAL else model


def _register(offers: dict[str, _Offer], plugin: str, scheme: str, opener: EngineOpener) -> None:
    """Take a plugin's engine; what is raised here is the plugin's fault."""
    if not isinstance(scheme, str) or not scheme or ":" in scheme or not callable(opener):
        raise TypeError("register takes a scheme, a text without a colon, and a function")
    if scheme == LOCAL:
        raise ChatlmError(f"{LOCAL}: is the scheme of chatlm's own models")
    taken = offers.setdefault(scheme, _Offer(plugin, opener))
    if taken.plugin != plugin:
        raise ChatlmError(f"the scheme {scheme}: is taken by the plugin {taken.plugin}")


def _open_local(name: str, config: Config, plugins: PluginHost, progress: Progress) -> Engine:
    from chatlm.hub.catalogue import catalogue
    from chatlm.hub.pull import ensure_model

    location = ensure_model(name, progress)
    entry = catalogue().get(location.name)
    from chatlm.engines.devices import place
    from chatlm.engines.local_engine import LocalEngine

    return LocalEngine(
        location.name,
        location.folder,
        place(config.device, config.dtype, config.quantize),
        prompt_format=config.prompt_format,
        context=config.context,
        suits=entry.sampling if entry else Sampling(),
        fast=config.fast,
        find_adapter=partial(_find_adapter, plugins, location.name),
    )


def _find_adapter(plugins: PluginHost, model: str, name: str) -> Path:
    """The folder of an adapter for a model, from the first plugin that knows it."""
    accept = hook_table.folder_or_refusal
    found = plugins.first("find_adapter", None, accept, name=name, model=model)
    if isinstance(found, Path):
        return found
    raise found or EngineError(
        f"There is no adapter {name}",
        hint="Go on without it, or see whether its plugin is on: chatlm plugins list",
    )
