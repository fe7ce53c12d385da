"""Decode with torch's packed matrix products."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from chatlm.engines.native.forward import prefill
from chatlm.engines.native.kv_cache import Growth
from chatlm.engines.native.lora import Additions, adapted
from chatlm.engines.native.model_config import Shape
from chatlm.engines.native.quantization import Format, fitting, int4, int8
from chatlm.engines.native.weights import LayerWeights, Linear, Product, Weights


class PlainDecoder:
    """A model whose matrices are packed, but for those whose sizes do not suit torch.

    Args:
        shape: of the model.
        weights: of the model.
        form: format of the packed matrices, None for what `fitting` says; with int4 the output
            matrix is int8.
    """

    at_once = 1

    def __init__(self, shape: Shape, weights: Weights[Linear], form: Format | None) -> None:
        self._shape = shape
        self.formats: set[Format] = set()
        """Of the layers' matrices."""
        self._weights: Weights[Product] = Weights(
            embedding=weights.embedding,
            layers=tuple(self._layer(layer, form) for layer in weights.layers),
            norm=weights.norm,
            head=_packed(weights.head, "bf16" if form == "bf16" else "int8"),
        )

    def _layer(self, layer: LayerWeights[Linear], form: Format | None) -> LayerWeights[Product]:
        packed = {}
        for name in ("query", "key", "value", "output", "gate", "up", "down"):
            matrix = getattr(layer, name)
            self.formats.add(chosen := form or fitting([matrix]))
            packed[name] = _packed(matrix, chosen)
        return dataclasses.replace(layer, **packed)  # type: ignore[arg-type]

    def packed(self, additions: Additions) -> Weights[Product]:
        """See `TokenDecoder.packed`."""
        return adapted(self._weights, additions)

    def decode(self, sequences: Sequence[Growth], turns: Tensor) -> Tensor:
        """See `TokenDecoder.decode`."""
        return torch.stack(
            [
                prefill(self._shape, each.adapter or self._weights, each.memory, [token], turns)
                for each in sequences
                for token in each.tokens
            ]
        )


def _packed(matrix: Linear, form: Format) -> Product:
    rows, columns = matrix.weight.shape
    if form == "bf16" or rows % 16 or columns % 32:
        return matrix
    return int4(matrix) if form == "int4" else int8(matrix)
