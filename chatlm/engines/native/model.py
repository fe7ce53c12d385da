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
    def max_step_tokens(self) -> int:
        """So many tokens are read at once for little more than one costs; at least 1."""
        ...

    def pack_adapter(self, lora: LoraWeights) -> Any:
        """An adapter as `decode` takes it."""
        ...

    def decode(self, sequences: Sequence[SequenceInput], rope: Tensor) -> Tensor:
        """Add tokens to memories; returns the logits after each: (tokens, vocabulary), float32.

        Args:
            sequences: of different memories, of this model's shape and number format; at most
                `at_once` tokens in all.
            rope: what `angles` gives, for at least as many positions as each memory holds then.
        """
        ...


class NativeModel:
    """See the module's sentence.

    Args:
        config: of the model.
        weights: of the model.
        decoder: for the same model.
        info: what there is to know of it.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights[Linear],
        decoder: TokenDecoder,
        info: ModelInfo,
    ) -> None:
        self.info = info
        self.config = config
        self.weights = weights
        self.decoder = decoder
        self.device = weights.embed_tokens.device
        self.device_type = self.device.type
        self._rope = torch.empty(0, config.head_dim, device=self.device)

    def new_cache(self) -> NativeCache:
        """See `Reader.new_cache`."""
        return NativeCache(self, self.weights)

    def load_adapter(self, folder: Path) -> NativeAdaptedModel:
        """See `Model.adapted`."""
        return NativeAdaptedModel(self, read_lora(folder, self.config, self.weights))

    @property
    def max_step_tokens(self) -> int:
        """See `Reader.at_once`."""
        return self.decoder.max_step_tokens

    def decode(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> Tensor:
        """See `Model.extend`."""
        sequences = [cache.sequence_input(own) for cache, own in zip(caches, ids, strict=True)]
        with torch.inference_mode():
            rope = self.rope(max(each.kv_cache.length + len(each.tokens) for each in sequences))
            return self.decoder.decode(sequences, rope)

    def rope(self, positions: int) -> Tensor:
        """What `angles` gives for at least so many positions."""
        if positions > len(self._rope):
            self._rope = rope_table(self.config, positions + CAPACITY_STEP).to(self.device)
        return self._rope


class NativeAdaptedModel:
    """A model with an adapter beside its weights, which stay as they are.

    Args:
        model: without it.
        lora: the adapter.
    """

    def __init__(self, model: NativeModel, lora: LoraWeights) -> None:
        self._model = model
        self.device_type = model.device_type
        self.max_step_tokens = model.max_step_tokens
        self._weights = with_lora(model.weights, lora)
        self._packed_adapter = model.decoder.pack_adapter(lora)

    def new_cache(self) -> NativeCache:
        """See `Reader.new_cache`."""
        return NativeCache(self._model, self._weights, self._packed_adapter)

    def close(self) -> None:
        """See `Adapted.close`."""


class NativeCache:
    """See `Cache`.

    Args:
        model: whose tokens it reads.
        weights: of the model, with an adapter or without.
        packed_adapter: the adapter as the model's decoder takes it.
    """

    def __init__(
        self, model: NativeModel, weights: ModelWeights[Any], packed_adapter: Any = None
    ) -> None:
        self._model = model
        self._weights: ModelWeights[MatMul] = weights
        self._packed_adapter = packed_adapter
        self._kv_cache = KVCache(model.config, model.weights.embed_tokens.dtype, str(model.device))

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """See `Cache.read`."""
        model = self._model
        self._kv_cache.reserve(self._kv_cache.length + len(ids))
        with torch.inference_mode():
            turns = model.rope(self._kv_cache.capacity)
            return prefill(model.config, self._weights, self._kv_cache, ids, turns)

    def decode(self, ids: Sequence[int]) -> Tensor:
        """See `Cache.extend`."""
        return self._model.decode([self], [ids])

    def sequence_input(self, ids: Sequence[int]) -> SequenceInput:
        """Tokens to be added, as a `TokenDecoder` takes them."""
        return SequenceInput(self._kv_cache, ids, self._packed_adapter)

    def truncate(self, length: int) -> bool:
        """See `Cache.cut`."""
        self._kv_cache.length = length
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
