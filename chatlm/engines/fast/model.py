"""A Llama-type model on the CPU: whole blocks are read by torch, single tokens by a decoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from chatlm.engines.fast.low_rank import Additions, adapted, read_additions
from chatlm.engines.fast.memory import Memory
from chatlm.engines.fast.prefill import prefill
from chatlm.engines.fast.shape import Shape, angles
from chatlm.engines.fast.weights import Linear, Product, Weights
from chatlm.engines.model import About


class TokenDecoder(Protocol):
    """Reads one token at a time."""

    def packed(self, additions: Additions) -> Any:
        """An adapter as `decode` takes it."""
        ...

    def decode(self, memory: Memory, token: int, turns: Tensor, adapter: Any = None) -> Tensor:
        """Add one token to the memory; returns the logits after it: (vocabulary,), float32."""
        ...


class FastModel:
    """See the module's sentence.

    Args:
        shape: of the model.
        weights: of the model.
        decoder: for the same model.
        about: what there is to know of it.
    """

    device_type = "cpu"

    def __init__(
        self, shape: Shape, weights: Weights[Linear], decoder: TokenDecoder, about: About
    ) -> None:
        self.about = about
        self.shape = shape
        self.weights = weights
        self.decoder = decoder
        self._turns = torch.empty(0, shape.head_size)

    def new_cache(self) -> FastCache:
        """See `Reader.new_cache`."""
        return FastCache(self, self.weights)

    def adapted(self, folder: Path) -> AdaptedModel:
        """See `Model.adapted`."""
        return AdaptedModel(self, read_additions(folder, self.weights))

    def turns(self, positions: int) -> Tensor:
        """What `angles` gives for at least so many positions."""
        if positions > len(self._turns):
            self._turns = angles(self.shape, positions)
        return self._turns


class AdaptedModel:
    """A model with an adapter beside its weights, which stay as they are.

    Args:
        model: without it.
        additions: the adapter.
    """

    device_type = "cpu"

    def __init__(self, model: FastModel, additions: Additions) -> None:
        self._model = model
        self._weights = adapted(model.weights, additions)
        self._packed = model.decoder.packed(additions)

    def new_cache(self) -> FastCache:
        """See `Reader.new_cache`."""
        return FastCache(self._model, self._weights, self._packed)

    def close(self) -> None:
        """See `Adapted.close`."""


class FastCache:
    """See `Cache`.

    Args:
        model: whose tokens it reads.
        weights: of the model, with an adapter or without.
        packed: the adapter as the model's decoder takes it.
    """

    def __init__(self, model: FastModel, weights: Weights[Any], packed: Any = None) -> None:
        self._model = model
        self._weights: Weights[Product] = weights
        self._packed = packed
        self._memory = Memory(model.shape, model.weights.embedding.dtype)

    def read(self, ids: Sequence[int]) -> Tensor:
        """See `Cache.read`."""
        model = self._model
        self._memory.reserve(self._memory.length + len(ids))
        with torch.inference_mode():
            turns = model.turns(self._memory.room)
            return prefill(model.shape, self._weights, self._memory, ids, turns)

    def extend(self, ids: Sequence[int]) -> Tensor:
        """See `Cache.extend`."""
        model = self._model
        with torch.inference_mode():
            for token in ids:
                self._memory.reserve(self._memory.length + 1)
                turns = model.turns(self._memory.room)
                logits = model.decoder.decode(self._memory, token, turns, self._packed)
        return logits

    def cut(self, length: int) -> bool:
        """See `Cache.cut`."""
        self._memory.length = length
        return True


def generation_settings(folder: Path) -> Mapping[str, Any]:
    """The model's generation config, or the part of its config that stands for it.

    Raises:
        ValueError: a file cannot be read.
    """
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            values = json.loads((folder / name).read_bytes())
            if not isinstance(values, dict):
                raise ValueError(f"{name} holds no table")
            return values
    return {}
