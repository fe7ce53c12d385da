"""Int8 and int4 formats, when int4 loses nothing.

In each group of 32 columns a number is `low + step * level`, with a level from 0 to 15.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chatlm.engines.native.weights import Linear

INT4_GROUP_SIZE = 32


_INT8_GROUP_SIZE = 64
"""Columns that share a scale when 8 bits are kept."""


_SAMPLED_ROWS = 16
"""Rows of a matrix that are looked at."""


_ROUNDING_TOLERANCE = 1e-4
"""Of a group's squared span; a smaller squared error comes from rounding to bfloat16."""


@dataclass(frozen=True)
class QuantizedGroups:
    """Groups of numbers in 4 bits; each tensor begins with (rows, groups)."""

    codes: Tensor
    """(…, 32), float32"""
    scales: Tensor
    minimums: Tensor
    errors: Tensor
    """Sums of squares."""


def quantize_int4(weight: Tensor) -> QuantizedGroups:
    """Round a matrix, whose columns are a multiple of 32, as the kernel's INT4 does.

    A step is the fifteenth part of what the group spans, but for numbers that had 4 bits before
    and do not span all of them.
    """
    groups = weight.float().unflatten(-1, (-1, INT4_GROUP_SIZE))
    lows = _round_to_bf16(groups.amin(-1))
    spans = groups.amax(-1) - lows
    found = _quantize_groups(groups, lows, spans, 15)
    for parts in range(14, 7, -1):
        left = found.errors > _ROUNDING_TOLERANCE * spans.square()
        other = _quantize_groups(groups[left], lows[left], spans[left], parts)
        better = 8 * other.errors < found.errors[left]
        left[left.clone()] = better
        for name in ("codes", "scales", "errors"):
            getattr(found, name)[left] = getattr(other, name)[better]
    return found


def _quantize_groups(
    groups: Tensor, minimums: Tensor, spans: Tensor, parts: int
) -> QuantizedGroups:
    steps = _round_to_bf16(spans / parts)
    above = groups - minimums[..., None]
    levels = (above / steps[..., None].clamp(min=1e-30)).round().clamp(0, 15)
    errors = (above - steps[..., None] * levels).square().sum(-1)
    return QuantizedGroups(levels, steps, minimums, errors)


def _round_to_bf16(values: Tensor) -> Tensor:
    return values.bfloat16().float()


def choose_format(matrices: Sequence[Linear]) -> WeightFormat:
    """int4 for matrices that it keeps at least as exactly as int8 does, else int8.

    Some rows of each tell; what stands behind the last whole 64 columns is not looked at.
    """
    return "int4" if all(_int4_suffices(matrix.weight) for matrix in matrices) else "int8"


def _int4_suffices(weight: Tensor) -> bool:
    columns = weight.shape[1] // _INT8_GROUP_SIZE * _INT8_GROUP_SIZE
    rows = weight[:: -(-len(weight) // _SAMPLED_ROWS), :columns].float()
    groups = rows.unflatten(-1, (-1, _INT8_GROUP_SIZE))
    steps = _round_to_bf16(groups.abs().amax(-1, keepdim=True) / 127)
    levels = (groups / steps.clamp(min=1e-30)).round()
    error = (groups - steps * levels).square().sum()
    return columns > 0 and bool(quantize_int4(rows).errors.sum() <= error)


WeightFormat = Literal["bf16", "int8", "int4"]
"""How a model's matrices can be kept to write replies with."""


@dataclass(frozen=True)
class Int8Linear:
    """A matrix of 8-bit numbers, each row with a scale of its own."""

    packed: Tensor
    scales: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        out: Tensor = torch.ops.aten._weight_int8pack_mm(x, self.packed, self.scales)
        return out if self.bias is None else out + self.bias


def pack_int8(matrix: Linear) -> Int8Linear:
    """The matrix packed; its rows must be a multiple of 16, its columns one of 32."""
    scales = (matrix.weight.float().abs().amax(-1) / 127).clamp(min=1e-12).to(matrix.weight.dtype)
    packed = (matrix.weight.float() / scales.float()[:, None]).round().clamp(-127, 127)
    return Int8Linear(packed.to(torch.int8), scales, matrix.bias)


@dataclass(frozen=True)
class Int4Linear:
    """A matrix of 4-bit numbers."""

    packed: Tensor
    scales: Tensor
    """(groups, rows, 2): steps, and what level 8 stands for."""
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, self.packed, INT4_GROUP_SIZE, self.scales
        )
        return out if self.bias is None else out + self.bias


def pack_int4(matrix: Linear) -> Int4Linear:
    """The matrix packed; its rows must be a multiple of 16, its columns one of 32."""
    found = quantize_int4(matrix.weight)
    scales = torch.stack((found.scales, found.minimums + 8 * found.scales), -1).transpose(0, 1)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(found.codes.flatten(1).int(), 1)
    return Int4Linear(packed, scales.to(matrix.weight.dtype).contiguous(), matrix.bias)
