"""A model of any architecture that transformers knows, run by transformers' own classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from chatlm.engines.devices import Placement
from chatlm.engines.loading import load_model
from chatlm.engines.model import About, ends_of, suggested
from chatlm.engines.peft_adapters import PeftAdapters


class TransformersModel:
    """See the module's sentence.

    Args:
        name: what the person calls the model.
        folder: config.json and safetensors.
        placement: device and number format.
        notes: what the person should know of why it is run this way.

    Raises:
        ModelError: the folder does not hold a model that can be used.
        OutOfMemoryError: the device's memory does not hold it.
    """

    at_once = 1

    def __init__(
        self, name: str, folder: Path, placement: Placement, notes: tuple[str, ...] = ()
    ) -> None:
        self.module = load_model(name, folder, placement)
        text_config = self.module.config.get_text_config()
        generation = self.module.generation_config
        self.device_type: str = self.module.device.type
        self.about = About(
            device=_devices(self.module),
            dtype=_dtype_name(self.module, placement),
            context=getattr(text_config, "max_position_embeddings", None) or 2048,
            ends=ends_of(generation.eos_token_id),
            suggested=suggested(name, generation.to_dict()),
            notes=notes,
        )

        self.adapters = PeftAdapters(self.module)

    def new_cache(self) -> TransformersCache:
        """See `Reader.new_cache`."""
        return TransformersCache(self)

    def extend(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> Tensor:
        """See `Model.extend`."""
        return torch.cat([cache.extend(own) for cache, own in zip(caches, ids, strict=True)])

    def adapted(self, folder: Path) -> AdaptedModel:
        """See `Model.adapted`."""
        return AdaptedModel(self, self.adapters.add(folder))


class AdaptedModel:
    """A model with one of its adapters.

    Args:
        model: that has it.
        name: that `PeftAdapters.add` gave the adapter.
    """

    at_once = 1

    def __init__(self, model: TransformersModel, name: str) -> None:
        self._model = model
        self._name = name
        self.device_type = model.device_type

    def new_cache(self) -> TransformersCache:
        """See `Reader.new_cache`."""
        return TransformersCache(self._model, self._name)

    def close(self) -> None:
        """See `Adapted.close`."""
        self._model.adapters.remove(self._name)


class TransformersCache:
    """See `Cache`."""

    def __init__(self, model: TransformersModel, adapter: str | None = None) -> None:
        self._module = model.module
        self._adapters = model.adapters
        self._adapter = adapter
        self._cache = DynamicCache(config=self._module.config)
        self._length = 0

    def read(self, ids: Sequence[int]) -> Tensor:
        """See `Cache.read`."""
        self._adapters.activate(self._adapter)
        with torch.inference_mode():
            out = self._module(
                torch.tensor([ids], device=self._module.device),
                cache=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._length += len(ids)
        logits: Tensor = out.logits[0, -1]
        return logits

    def extend(self, ids: Sequence[int]) -> Tensor:
        """See `Cache.extend`."""
        return torch.stack([self.read([token]) for token in ids])

    def cut(self, length: int) -> bool:
        """See `Cache.cut`."""
        try:
            self._cache.crop(length - self._length)
        except (RuntimeError, NotImplementedError):  # a sliding window that has moved on
            return False
        self._length = length
        return True


def _devices(model: Any) -> str:
    spread = getattr(model, "hf_device_map", None) or {"": model.device}
    names = {f"cuda:{place}" if isinstance(place, int) else str(place) for place in spread.values()}
    return "+".join(sorted(names))


def _dtype_name(model: Any, placement: Placement) -> str:
    if placement.quantization is not None:
        return "8bit" if placement.quantization.load_in_8bit else "4bit"
    return str(model.dtype).removeprefix("torch.")
