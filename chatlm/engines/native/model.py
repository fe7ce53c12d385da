"""A Llama-type model: whole blocks are read by torch, single tokens by a decoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from chatlm.engines.model import ModelInfo
from chatlm.engines.native.forward import prefill
from chatlm.engines.native.kv_cache import CAPACITY_STEP, KVCache, SequenceInput
from chatlm.engines.native.lora import LoraWeights, read_lora, with_lora
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.rope import rope_table
from chatlm.engines.native.weights import Linear, MatMul, ModelWeights


class TokenDecoder(Protocol):
    """Reads single tokens, and some at once as if they came singly."""

    @property
    def at_once(self) -> int:
        """So many tokens are read at once for little more than one costs; at least 1."""
        ...

    def packed(self, additions: LoraWeights) -> Any:
        """An adapter as `decode` takes it."""
        ...

    def decode(self, sequences: Sequence[SequenceInput], turns: Tensor) -> Tensor:
        """Add tokens to memories; returns the logits after each: (tokens, vocabulary), float32.

        Args:
            sequences: of different memories, of this model's shape and number format; at most
                `at_once` tokens in all.
            turns: what `angles` gives, for at least as many positions as each memory holds then.
        """
        ...


class NativeModel:
    """See the module's sentence.

    Args:
        shape: of the model.
        weights: of the model.
        decoder: for the same model.
        about: what there is to know of it.
    """

    def __init__(
        self,
        shape: ModelConfig,
        weights: ModelWeights[Linear],
        decoder: TokenDecoder,
        about: ModelInfo,
    ) -> None:
        self.about = about
        self.shape = shape
        self.weights = weights
        self.decoder = decoder
        self.device = weights.embedding.device
        self.device_type = self.device.type
        self._turns = torch.empty(0, shape.head_size, device=self.device)

    def new_cache(self) -> NativeCache:
        """See `Reader.new_cache`."""
        return NativeCache(self, self.weights)

    def adapted(self, folder: Path) -> NativeAdaptedModel:
        """See `Model.adapted`."""
        return NativeAdaptedModel(self, read_lora(folder, self.weights))

    @property
    def at_once(self) -> int:
        """See `Reader.at_once`."""
        return self.decoder.at_once

    def extend(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> Tensor:
        """See `Model.extend`."""
        grown = [cache.growth(own) for cache, own in zip(caches, ids, strict=True)]
        with torch.inference_mode():
            turns = self.turns(max(each.memory.length + len(each.tokens) for each in grown))
            return self.decoder.decode(grown, turns)

    def turns(self, positions: int) -> Tensor:
        """What `angles` gives for at least so many positions."""
        if positions > len(self._turns):
            self._turns = rope_table(self.shape, positions + CAPACITY_STEP).to(self.device)
        return self._turns


class NativeAdaptedModel:
    """A model with an adapter beside its weights, which stay as they are.

    Args:
        model: without it.
        additions: the adapter.
    """

    def __init__(self, model: NativeModel, additions: LoraWeights) -> None:
        self._model = model
        self.device_type = model.device_type
        self.at_once = model.at_once
        self._weights = with_lora(model.weights, additions)
        self._packed = model.decoder.packed(additions)

    def new_cache(self) -> NativeCache:
        """See `Reader.new_cache`."""
        return NativeCache(self._model, self._weights, self._packed)

    def close(self) -> None:
        """See `Adapted.close`."""


class NativeCache:
    """See `Cache`.

    Args:
        model: whose tokens it reads.
        weights: of the model, with an adapter or without.
        packed: the adapter as the model's decoder takes it.
    """

    def __init__(self, model: NativeModel, weights: ModelWeights[Any], packed: Any = None) -> None:
        self._model = model
        self._weights: ModelWeights[MatMul] = weights
        self._packed = packed
        self._memory = KVCache(model.shape, model.weights.embedding.dtype, str(model.device))

    def read(self, ids: Sequence[int]) -> Tensor:
        """See `Cache.read`."""
        model = self._model
        self._memory.reserve(self._memory.length + len(ids))
        with torch.inference_mode():
            turns = model.turns(self._memory.room)
            return prefill(model.shape, self._weights, self._memory, ids, turns)

    def extend(self, ids: Sequence[int]) -> Tensor:
        """See `Cache.extend`."""
        return self._model.extend([self], [ids])

    def growth(self, ids: Sequence[int]) -> SequenceInput:
        """Tokens to be added, as a `TokenDecoder` takes them."""
        return SequenceInput(self._memory, ids, self._packed)

    def cut(self, length: int) -> bool:
        """See `Cache.cut`."""
        self._memory.length = length
        return True


def read_generation_config(folder: Path) -> Mapping[str, Any]:
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
