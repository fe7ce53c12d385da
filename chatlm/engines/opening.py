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
    schemes: dict[str, EngineOpener] = {}
    for _ in plugins.each("register_engines", register=schemes.__setitem__):
        pass
    scheme, colon, rest = config.model.partition(":")
    if colon and scheme in schemes:
        try:
            return schemes[scheme](rest)
        except ChatlmError:
            raise
        except Exception as error:  # a plugin may fail in any way
            raise ModelError(
                f"The plugin for {scheme}: cannot open {rest}: {type(error).__name__}: {error}",
                hint="`chatlm logs` may have more; `chatlm config set model` names another.",
            ) from error
    return _open_local(rest if scheme == "local" and colon else config.model, config, progress)


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
