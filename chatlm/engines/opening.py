"""Opens the engine for a model's name: a plugin's by its scheme, else the local one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatlm.config import Config
from chatlm.errors import ChatlmError, ModelError
from chatlm.generation import Engine, EngineOpener
from chatlm.plugins import PluginHost
from chatlm.sampling import Sampling

if TYPE_CHECKING:
    from chatlm.models.progress import Progress


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
    opener, name = _opener(config.model, plugins)
    if opener is None:
        return _open_local(name, config, progress)
    try:
        return opener(name)
    except ChatlmError:
        raise
    except Exception as error:  # a plugin may fail in any way
        raise ModelError(
            f"The plugin for {config.model} failed to open it: {type(error).__name__}: {error}",
            hint="`chatlm logs` may have more; `chatlm config set model` names another.",
        ) from error


def is_here(model: str, plugins: PluginHost) -> bool:
    """Whether `open_engine` can open a model without fetching it; a plugin's own counts as here.

    Raises:
        ModelError: there cannot be such a model, or it is damaged.
    """
    from chatlm import models

    opener, name = _opener(model, plugins)
    return opener is not None or models.is_here(name)


def _opener(model: str, plugins: PluginHost) -> tuple[EngineOpener | None, str]:
    """What opens a model, None for a local one, and the name without the scheme."""
    schemes: dict[str, EngineOpener | None] = {"local": None}
    for _ in plugins.each("register_engines", register=schemes.__setitem__):
        pass
    scheme, colon, name = model.partition(":")
    return (schemes[scheme], name) if colon and scheme in schemes else (None, model)


def _open_local(name: str, config: Config, progress: Progress) -> Engine:
    from chatlm.models import ensure
    from chatlm.models.catalogue import catalogue

    location = ensure(name, progress)
    entry = catalogue().get(location.name)
    from chatlm.engines.devices import place
    from chatlm.engines.local import LocalEngine

    return LocalEngine(
        location.name,
        location.folder,
        place(config.device, config.dtype, config.quantize),
        prompt_format=config.prompt_format,
        context=config.context,
        suits=entry.sampling if entry else Sampling(),
    )
