"""Reads single tokens with torch's products of quantized matrices, where there is no compiler."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from chatlm.engines.fast.memory import Memory
from chatlm.engines.fast.prefill import prefill
from chatlm.engines.fast.shape import Shape
from chatlm.engines.fast.weights import LayerWeights, Linear, Product, Weights

GROUP = 32
"""Numbers that share a scale and a zero."""


@dataclass(frozen=True)
class Int4:
    """A matrix of 4-bit numbers, in groups that share a scale and a zero."""

    packed: Tensor
    scales: Tensor
    """Scale and zero of each group: (columns / GROUP, rows, 2)."""
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales)
        return out if self.bias is None else out + self.bias


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


def int4(matrix: Linear) -> Product:
    """The matrix packed, or as it is where its sizes do not suit the packed form."""
    rows, columns = matrix.weight.shape
    if rows % 16 or columns % GROUP:
        return matrix
    dtype = matrix.weight.dtype
    groups = matrix.weight.float().view(rows, columns // GROUP, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = ((high - low) / 15).clamp(min=1e-12).to(dtype)
    zero = (low + 8 * step).to(dtype)
    levels = (((groups - zero) / step).round() + 8).clamp(0, 15).to(torch.int32)
    return Int4(
        torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.view(rows, columns), 1),
        torch.cat((step, zero), dim=-1).transpose(0, 1).contiguous(),
        matrix.bias,
    )


def int8(matrix: Linear) -> Product:
    """The matrix packed, or as it is where its sizes do not suit the packed form."""
    rows, columns = matrix.weight.shape
    if rows % 16 or columns % 32:
        return matrix
    scales = (matrix.weight.float().abs().amax(-1) / 127).clamp(min=1e-12)
    packed = (matrix.weight.float() / scales[:, None]).round().to(torch.int8)
    return Int8(packed, scales.to(matrix.weight.dtype), matrix.bias)


class PlainDecoder:
    """A model whose layers are `int4` and whose output matrix is `int8`.

    Args:
        shape: of the model.
        weights: of the model.
    """

    def __init__(self, shape: Shape, weights: Weights[Linear]) -> None:
        self._shape = shape
        self._weights: Weights[Product] = Weights(
            embedding=weights.embedding,
            layers=tuple(_packed(layer) for layer in weights.layers),
            norm=weights.norm,
            head=int8(weights.head),
        )

    def decode(self, memory: Memory, token: int, turns: Tensor) -> Tensor:
        """See `TokenDecoder.decode`."""
        return prefill(self._shape, self._weights, memory, [token], turns)


def _packed(layer: LayerWeights[Linear]) -> LayerWeights[Product]:
    names = ("query", "key", "value", "output", "gate", "up", "down")
    packed = {name: int4(getattr(layer, name)) for name in names}
    return dataclasses.replace(layer, **packed)  # type: ignore[arg-type]
