"""A model's adapters, each loaded when it is first asked for, and again when its files changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chatlm.engines.model import AdaptedModel, LanguageModel, Model, Unsupported
from chatlm.errors import EngineError

ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""An adapter's files, as peft names them; weights in any other form are not read."""

_SUPPORTED_INITS = (True, False, None, "gaussian", "orthogonal")

FindAdapter = Callable[[str], Path]
"""The folder of an adapter by its name; raises a `ChatlmError` where there is none to use."""
MAX_LOADED_ADAPTERS = 8
"""Adapters kept loaded; the least recently used goes first."""

FileStamp = tuple[tuple[int, int, int], ...]


def no_adapter(name: str) -> Path:
    """A `FindAdapter` that finds none."""
    raise EngineError(f"There is no adapter {name}", hint="Go on without an adapter.")


@dataclass(frozen=True)
class _LoadedAdapter:
    folder: Path
    stamp: FileStamp
    model: AdaptedModel


class AdapterCache:
    """See the module's sentence.

    Args:
        model: that they work on.
        find: finds them.
    """

    def __init__(self, model: Model, find: FindAdapter) -> None:
        self._model: Model | None = model
        self._find = find
        self._loaded: OrderedDict[str, _LoadedAdapter] = OrderedDict()

    @property
    def model(self) -> Model:
        """The model without an adapter."""
        if self._model is None:
            raise RuntimeError("the model was closed")
        return self._model

    def get(self, name: str | None) -> LanguageModel:
        """The model with an adapter, or without one.

        Args:
            name: of the adapter; None for none.

        Raises:
            ChatlmError: there is no such adapter, or it cannot be used on this model.
        """
        model = self.model
        if name is None:
            return model
        folder = self._find(name)
        held = self._loaded.get(name)
        if held is None or (held.folder, held.stamp) != (folder, _file_stamp(name, folder)):
            self._unload(name)
            held = self._load(name, folder, model)
        self._loaded[name] = held
        self._loaded.move_to_end(name)
        while len(self._loaded) > MAX_LOADED_ADAPTERS:
            self._unload(next(iter(self._loaded)))
        return held.model

    def close(self) -> None:
        """Forget them and the model."""
        for name in list(self._loaded):
            self._unload(name)
        self._model = None

    def _load(self, name: str, folder: Path, model: Model) -> _LoadedAdapter:
        stamp = _file_stamp(name, folder)
        try:
            return _LoadedAdapter(folder, stamp, model.load_adapter(folder))
        except Unsupported as reason:
            raise EngineError(
                f"The adapter {name} cannot be run the fast way: {reason}",
                hint="`chatlm config set fast off` runs it with transformers, more slowly.",
            ) from reason
        except ValueError as error:
            raise _adapter_error(name, str(error)) from error

    def _unload(self, name: str) -> None:
        held = self._loaded.pop(name, None)
        if held is not None:
            held.model.close()


def check_lora_init(value: object) -> None:
    """See that a training began in a way, an adapter's `init_lora_weights`, that left the model
    as it was.

    Raises:
        Unsuitable: it did not, so that the adapter needs another model than this one.
    """
    if not any(value is known or value == known for known in _SUPPORTED_INITS):
        raise Unsupported(f"it was begun by {value}, which changes the model")


def _file_stamp(name: str, folder: Path) -> FileStamp:
    """What changes when the files do."""
    try:
        facts = [(folder / file).stat() for file in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)]
    except OSError as error:
        raise _adapter_error(name, f"{error.filename}: {error.strerror}") from error
    return tuple((fact.st_mtime_ns, fact.st_size, fact.st_ino) for fact in facts)


def _adapter_error(name: str, reason: str) -> EngineError:
    return EngineError(
        f"The adapter {name} cannot be used: {reason}",
        hint="Go on without it, or put a whole one in its place.",
    )
