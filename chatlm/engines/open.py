"""Opens the engine for a model's name: a plugin's by its scheme, else the local one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm.config.config import Config
from chatlm.errors import ChatlmError, EngineError, ModelError
from chatlm.plugin_host.faults import describe_error, reraise_interrupt
from chatlm.plugin_host.host import PluginHost
from chatlm.types.engine import Engine, EngineInfo, EngineOpener
from chatlm.types.sampling import Sampling

if TYPE_CHECKING:
    from chatlm.hub.jobs import ProgressCallback, Stage


LOCAL_SCHEME = "local"
"""The scheme of chatlm's own engine; a model without a scheme is one of its too."""


def open_engine(config: Config, plugins: PluginHost, progress: ProgressCallback) -> Engine:
    """Load the model that `config.model` names; a catalogue model that is not here is pulled.

    Args:
        config: names the model and how to run it.
        plugins: may offer engines; `scheme:name` takes the one registered for the scheme.
        progress: told about downloads and conversions.

    Raises:
        ModelError: there is no such model, or it cannot be used.
        OutOfMemoryError: the device's memory does not hold it.
    """
    offer, name = _resolve_scheme(config.model, plugins)
    if offer is None:
        return _open_local(name, config, plugins, progress)
    try:
        engine = offer.opener(name)
        if not isinstance(engine.info, EngineInfo):
            raise TypeError(f"info is {type(engine.info).__name__}, not EngineInfo")
    except ChatlmError:
        raise
    except BaseException as error:  # a plugin may fail in any way
        reraise_interrupt(error)
        raise ModelError(
            f"The plugin {offer.plugin} failed to open {config.model}: {describe_error(error)}",
            hint="`chatlm logs` may have more; `chatlm config set model` names another.",
        ) from error
    return engine


def make_model_opener(
    config: Config, plugins: PluginHost
) -> Callable[[str, Callable[[str], None]], Engine]:
    """A function that opens any model with the config's other settings, and says how far it is."""

    def open_model(model: str, report: Callable[[str], None]) -> Engine:
        from chatlm.hub.jobs import describe_progress

        def progress(stage: Stage, done: int, total: int | None) -> None:
            report(describe_progress(stage, done, total))

        return open_engine(dataclasses.replace(config, model=model), plugins, progress)

    return open_model


def is_available(model: str, plugins: PluginHost) -> bool:
    """Whether `open_engine` can open a model without fetching it; a plugin's own counts as here.

    Raises:
        ModelError: there cannot be such a model, or it is damaged.
    """
    from chatlm.hub import installed

    offer, name = _resolve_scheme(model, plugins)
    return offer is not None or installed.is_installed(name)


def check_available(model: str, adapter: str, plugins: PluginHost) -> None:
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

    offer, name = _resolve_scheme(model, plugins)
    if offer is None:
        if adapter:
            _find_adapter(plugins, name, adapter)
        installed.find_model(name)


@dataclass(frozen=True)
class _RegisteredEngine:
    plugin: str
    opener: EngineOpener


def _resolve_scheme(model: str, plugins: PluginHost) -> tuple[_RegisteredEngine | None, str]:
    """What opens a model, None for a local one, and the name without the scheme."""
    offers: dict[str, _RegisteredEngine] = {}

    plugins.collect("register_engines", partial(_register_engine, offers))
    scheme, colon, name = model.partition(":")
    if colon and scheme in offers:
        return offers[scheme], name
    return None, name if colon and scheme == LOCAL_SCHEME else model


def _register_engine(
    engines: dict[str, _RegisteredEngine], plugin: str, scheme: str, opener: EngineOpener
) -> None:
    """Take a plugin's engine; what is raised here is the plugin's fault."""
    if not scheme or ":" in scheme:
        raise TypeError("register takes a scheme, a text without a colon, and a function")
    if scheme == LOCAL_SCHEME:
        raise ChatlmError(f"{LOCAL_SCHEME}: is the scheme of chatlm's own models")
    taken = engines.setdefault(scheme, _RegisteredEngine(plugin, opener))
    if taken.plugin != plugin:
        raise ChatlmError(f"the scheme {scheme}: is taken by the plugin {taken.plugin}")


def _open_local(
    name: str, config: Config, plugins: PluginHost, progress: ProgressCallback
) -> Engine:
    from chatlm.hub.catalogue import catalogue
    from chatlm.hub.pull import ensure_model

    location = ensure_model(name, progress)
    entry = catalogue().get(location.name)
    from chatlm.engines.devices import resolve_placement
    from chatlm.engines.local_engine import LocalEngine

    return LocalEngine.from_folder(
        location.name,
        location.folder,
        resolve_placement(config.device, config.dtype, config.quantize),
        prompt_format=config.prompt_format,
        context=config.context,
        catalogue_sampling=entry.sampling if entry else Sampling(),
        decoder_format=config.fast,
        find_adapter=partial(_find_adapter, plugins, location.name),
    )


def _find_adapter(plugins: PluginHost, model: str, name: str) -> Path:
    """The folder of an adapter for a model, from the first plugin that knows it."""
    found: Path | ChatlmError | None = plugins.call_hook("find_adapter", name=name, model=model)
    if isinstance(found, Path):
        return found
    raise found or EngineError(
        f"There is no adapter {name}",
        hint="Go on without it, or see whether its plugin is on: chatlm plugins list",
    )
