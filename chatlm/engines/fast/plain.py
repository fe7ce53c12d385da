"""Reads single tokens with torch's products of packed matrices, where there is no compiler."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatlm.engines.fast.four_bits import GROUP, fitting, rounded
from chatlm.engines.fast.low_rank import Additions, adapted
from chatlm.engines.fast.memory import Growth
from chatlm.engines.fast.prefill import prefill
from chatlm.engines.fast.shape import Shape
from chatlm.engines.fast.weights import Format, LayerWeights, Linear, Product, Weights


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


def int8(matrix: Linear) -> Int8:
    """The matrix packed; its rows must be a multiple of 16, its columns one of 32."""
    scales = (matrix.weight.float().abs().amax(-1) / 127).clamp(min=1e-12).to(matrix.weight.dtype)
    packed = (matrix.weight.float() / scales.float()[:, None]).round().clamp(-127, 127)
    return Int8(packed.to(torch.int8), scales, matrix.bias)


@dataclass(frozen=True)
class Int4:
    """A matrix of 4-bit numbers."""

    packed: Tensor
    scales: Tensor
    """(groups, rows, 2): steps, and what level 8 stands for."""
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales)
        return out if self.bias is None else out + self.bias


def int4(matrix: Linear) -> Int4:
    """The matrix packed; its rows must be a multiple of 16, its columns one of 32."""
    found = rounded(matrix.weight)
    scales = torch.stack((found.steps, found.lows + 8 * found.steps), -1).transpose(0, 1)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(found.levels.flatten(1).int(), 1)
    return Int4(packed, scales.to(matrix.weight.dtype).contiguous(), matrix.bias)


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
