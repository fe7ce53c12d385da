"""Reads single tokens with torch's products of 8-bit matrices, where there is no compiler."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatlm.engines.fast.low_rank import Additions, adapted
from chatlm.engines.fast.memory import Growth
from chatlm.engines.fast.prefill import prefill
from chatlm.engines.fast.shape import Shape
from chatlm.engines.fast.weights import LayerWeights, Linear, Product, Weights


@dataclass(frozen=True)
class Int8:
    """A matrix of 8-bit numbers, each row with a scale of its own."""

    packed: Tensor
    scales: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        out: Tensor = torch.ops.aten._weight_int8pack_mm(x, self.packed, self.scales)
        return out if self.bias is None else out + self.bias


def int8(matrix: Linear) -> Product:
    """The matrix packed, or as it is where its sizes do not suit the packed form."""
    rows, columns = matrix.weight.shape
    if rows % 16 or columns % 32:
        return matrix
    scales = (matrix.weight.float().abs().amax(-1) / 127).clamp(min=1e-12).to(matrix.weight.dtype)
    packed = (matrix.weight.float() / scales.float()[:, None]).round().clamp(-127, 127)
    return Int8(packed.to(torch.int8), scales, matrix.bias)


class PlainDecoder:
    """A model whose matrices are `int8`.

    Args:
        shape: of the model.
        weights: of the model.
    """

    at_once = 1

    def __init__(self, shape: Shape, weights: Weights[Linear]) -> None:
        self._shape = shape
        self._weights: Weights[Product] = Weights(
            embedding=weights.embedding,
            layers=tuple(_packed(layer) for layer in weights.layers),
            norm=weights.norm,
            head=int8(weights.head),
        )

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


def _packed(layer: LayerWeights[Linear]) -> LayerWeights[Product]:
    names = ("query", "key", "value", "output", "gate", "up", "down")
    packed = {name: int8(getattr(layer, name)) for name in names}
    return dataclasses.replace(layer, **packed)  # type: ignore[arg-type]
