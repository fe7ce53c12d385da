"""Decode with torch's packed matrix products."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from chatlm.engines.native.forward import prefill
from chatlm.engines.native.kv_cache import SequenceInput
from chatlm.engines.native.lora import LoraWeights, with_lora
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.quantization import WeightFormat, choose_format, pack_int4, pack_int8
from chatlm.engines.native.weights import LayerWeights, Linear, MatMul, ModelWeights


class TorchDecoder:
    """A model whose matrices are packed, but for those whose sizes do not suit torch.

    Args:
        shape: of the model.
        weights: of the model.
        form: format of the packed matrices, None for what `fitting` says; with int4 the output
            matrix is int8.
    """

    at_once = 1

    def __init__(
        self, shape: ModelConfig, weights: ModelWeights[Linear], form: WeightFormat | None
    ) -> None:
        self._shape = shape
        self.formats: set[WeightFormat] = set()
        """Of the layers' matrices."""
        self._weights: ModelWeights[MatMul] = ModelWeights(
            embedding=weights.embedding,
            layers=tuple(self._layer(layer, form) for layer in weights.layers),
            norm=weights.norm,
            head=_pack(weights.head, "bf16" if form == "bf16" else "int8"),
        )

    def _layer(
        self, layer: LayerWeights[Linear], form: WeightFormat | None
    ) -> LayerWeights[MatMul]:
        packed = {}
        for name in ("query", "key", "value", "output", "gate", "up", "down"):
            matrix = getattr(layer, name)
            self.formats.add(chosen := form or choose_format([matrix]))
            packed[name] = _pack(matrix, chosen)
        return dataclasses.replace(layer, **packed)  # type: ignore[arg-type]

    def packed(self, additions: LoraWeights) -> ModelWeights[MatMul]:
        """See `TokenDecoder.packed`."""
        return with_lora(self._weights, additions)

    def decode(self, sequences: Sequence[SequenceInput], turns: Tensor) -> Tensor:
        """See `TokenDecoder.decode`."""
        return torch.stack(
            [
                prefill(self._shape, each.adapter or self._weights, each.memory, [token], turns)
                for each in sequences
                for token in each.tokens
            ]
        )


def _pack(matrix: Linear, form: WeightFormat) -> MatMul:
    rows, columns = matrix.weight.shape
    if form == "bf16" or rows % 16 or columns % 32:
        return matrix
    return pack_int4(matrix) if form == "int4" else pack_int8(matrix)
