"""Load a model's LoRA adapters on demand, and again when their files change."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chatlm.engines.model import AdaptedModel, LanguageModel, Model, Unsupported
from chatlm.errors import EngineError

ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""An adapter's files under peft's names; other weight formats are not read."""

_SUPPORTED_INITS = (True, False, None, "gaussian", "orthogonal")

FindAdapter = Callable[[str], Path]
"""Returns the folder of an adapter by name; raises `ChatlmError` if there is none."""

MAX_LOADED_ADAPTERS = 8
"""Limit of loaded adapters; the least recently used is unloaded."""

FileStamp = tuple[tuple[int, int, int], ...]


def no_adapter(name: str) -> Path:
    """Find no adapter, as a `FindAdapter`."""
    raise EngineError(f"There is no adapter {name}", hint="Continue without an adapter.")


@dataclass(frozen=True)
class _LoadedAdapter:
    folder: Path
    stamp: FileStamp
    model: AdaptedModel


class AdapterCache:
    """The loaded adapters of one model, least recently used first.

    Args:
        model: without adapters.
        find: finds an adapter's folder.
    """

    def __init__(self, model: Model, find: FindAdapter) -> None:
        self._model: Model | None = model
        self._find = find
        self._loaded: OrderedDict[str, _LoadedAdapter] = OrderedDict()
        self._digests: dict[str, tuple[Path, FileStamp, str]] = {}

    @property
    def model(self) -> Model:
        """The model without an adapter."""
        if self._model is None:
            raise RuntimeError("the model is closed")
        return self._model

    def get(self, name: str | None) -> LanguageModel:
        """Return the model with an adapter, or without one.

        Args:
            name: of the adapter; None for none.

        Raises:
            ChatlmError: there is no such adapter, or it cannot be used on this model.
        """
        model = self.model
        if name is None:
            return model
        folder = self._find(name)
        loaded = self._loaded.get(name)
        if loaded is None or (loaded.folder, loaded.stamp) != (folder, _file_stamp(name, folder)):
            self._unload(name)
            loaded = self._load(name, folder, model)
        self._loaded[name] = loaded
        self._loaded.move_to_end(name)
        while len(self._loaded) > MAX_LOADED_ADAPTERS:
            self._unload(next(iter(self._loaded)))
        return loaded.model

    def digest(self, name: str | None) -> str:
        """Return a digest of an adapter's files; empty for none.

        Raises:
            ChatlmError: there is no such adapter, or its files cannot be read.
        """
        if name is None:
            return ""
        folder = self._find(name)
        stamp = _file_stamp(name, folder)
        known = self._digests.get(name)
        if known is None or known[:2] != (folder, stamp):
            digest = hashlib.sha256()
            try:
                for path in sorted(folder.iterdir()):
                    if path.is_file() and path.suffix in (".json", ".safetensors", ".gguf"):
                        digest.update(path.name.encode() + path.read_bytes())
            except OSError as error:
                raise _adapter_error(name, str(error)) from error
            known = self._digests[name] = (folder, stamp, digest.hexdigest())
        return known[2]

    def close(self) -> None:
        """Unload the adapters and drop the model."""
        for name in list(self._loaded):
            self._unload(name)
        self._model = None

    def _load(self, name: str, folder: Path, model: Model) -> _LoadedAdapter:
        stamp = _file_stamp(name, folder)
        try:
            return _LoadedAdapter(folder, stamp, model.load_adapter(folder))
        except Unsupported as reason:
            raise EngineError(
                f"This model's decoder cannot run the adapter {name}: {reason}",
                hint="`chatlm config set engine transformers` runs it, slower.",
            ) from reason
        except ValueError as error:
            raise _adapter_error(name, str(error)) from error

    def _unload(self, name: str) -> None:
        loaded = self._loaded.pop(name, None)
        if loaded is not None:
            loaded.model.close()


def check_lora_init(value: object) -> None:
    """Refuse an `init_lora_weights` that changed the weights of the base model.

    Raises:
        Unsupported: such an adapter does not fit the model as it is on disk.
    """
    if not any(value is known or value == known for known in _SUPPORTED_INITS):
        raise Unsupported(f"its training started with {value}, which changes the base model")


def _file_stamp(name: str, folder: Path) -> FileStamp:
    """Identify the version of the adapter's files."""
    try:
        stats = [(folder / file).stat() for file in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)]
    except OSError as error:
        raise _adapter_error(name, f"{error.filename}: {error.strerror}") from error
    return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


def _adapter_error(name: str, reason: str) -> EngineError:
    return EngineError(
        f"The adapter {name} cannot be used: {reason}",
        hint="Continue without it, or replace it with an undamaged one.",
    )
