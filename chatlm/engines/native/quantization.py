"""Quantize weights to int8 or int4 for torch, and choose int4 where it loses no more than int8.

Int4 has groups of 32 columns; a weight is `minimum + scale * code`, with codes from 0 to 15.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chatlm.engines.native.dequantize import dequantize_rows
from chatlm.engines.native.stored_matrix import StoredMatrix
from chatlm.engines.native.weights import Linear

INT4_GROUP_SIZE = 32


_INT8_GROUP_SIZE = 64
"""Columns that share a scale in int8."""


_SAMPLED_ROWS = 16
"""Rows of a matrix on which the format is chosen."""


_ROUNDING_TOLERANCE = 1e-4
"""Part of a group's squared span; smaller squared errors come from rounding to bfloat16."""


@dataclass(frozen=True)
class QuantizedGroups:
    """Groups of 4-bit codes; each tensor starts with the dimensions (rows, groups)."""

    codes: Tensor
    """(…, 32), float32"""
    scales: Tensor
    minimums: Tensor
    errors: Tensor
    """Sums of squared rounding errors."""


def quantize_int4(weight: Tensor) -> QuantizedGroups:
    """Quantize a matrix, whose columns are a multiple of 32.

    The scale is a fifteenth of the group's span, except for values that were quantized to 4 bits
    before and use fewer than 16 levels: the scale that reproduces them is searched for.
    """
    groups = weight.float().unflatten(-1, (-1, INT4_GROUP_SIZE))
    minimums = _round_to_bf16(groups.amin(-1))
    spans = groups.amax(-1) - minimums
    best = _quantize_groups(groups, minimums, spans, 15)
    for divisions in range(14, 7, -1):
        inexact = best.errors > _ROUNDING_TOLERANCE * spans.square()
        other = _quantize_groups(groups[inexact], minimums[inexact], spans[inexact], divisions)
        better = 8 * other.errors < best.errors[inexact]
        inexact[inexact.clone()] = better
        for name in ("codes", "scales", "errors"):
            getattr(best, name)[inexact] = getattr(other, name)[better]
    return best


def _quantize_groups(
    groups: Tensor, minimums: Tensor, spans: Tensor, divisions: int
) -> QuantizedGroups:
    scales = _round_to_bf16(spans / divisions)
    offsets = groups - minimums[..., None]
    codes = (offsets / scales[..., None].clamp(min=1e-30)).round().clamp(0, 15)
    errors = (offsets - scales[..., None] * codes).square().sum(-1)
    return QuantizedGroups(codes, scales, minimums, errors)


def _round_to_bf16(values: Tensor) -> Tensor:
    return values.bfloat16().float()


def choose_format(matrices: Sequence[StoredMatrix]) -> Literal["int8", "int4"]:
    """Return int4 for matrices that it represents at least as exactly as int8, else int8.

    A sample of rows decides; columns after the last multiple of 64 are ignored.
    """
    return "int4" if all(map(_int4_suffices, matrices)) else "int8"


def _int4_suffices(matrix: StoredMatrix) -> bool:
    columns = matrix.columns // _INT8_GROUP_SIZE * _INT8_GROUP_SIZE
    sample = dataclasses.replace(
        matrix, data=matrix.data[:: -(-matrix.rows // _SAMPLED_ROWS)], row_order=None
    )
    rows = dequantize_rows(sample)[:, :columns]
    groups = rows.unflatten(-1, (-1, _INT8_GROUP_SIZE))
    scales = _round_to_bf16(groups.abs().amax(-1, keepdim=True) / 127)
    codes = (groups / scales.clamp(min=1e-30)).round()
    error = (groups - scales * codes).square().sum()
    return columns > 0 and bool(quantize_int4(rows).errors.sum() <= error)


WeightFormat = Literal["stored", "bf16", "int8", "int4"]
"""Formats of a model's matrices; `stored` is that of its files."""


@dataclass(frozen=True)
class Int8Linear:
    """A matrix in int8 with one scale per row."""

    packed: Tensor
    scales: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, see `MatMul`."""
        out: Tensor = torch.ops.aten._weight_int8pack_mm(x, self.packed, self.scales)
        return out if self.bias is None else out + self.bias


def pack_int8(matrix: Linear) -> Int8Linear:
    """Pack a matrix for torch; rows must be a multiple of 16, columns of 32."""
    scales = (matrix.weight.float().abs().amax(-1) / 127).clamp(min=1e-12).to(matrix.weight.dtype)
    packed = (matrix.weight.float() / scales.float()[:, None]).round().clamp(-127, 127)
    return Int8Linear(packed.to(torch.int8), scales, matrix.bias)


@dataclass(frozen=True)
class Int4Linear:
    """A matrix in int4."""

    packed: Tensor
    scales: Tensor
    """(groups, rows, 2): scale, and the value of code 8."""
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, see `MatMul`."""
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, self.packed, INT4_GROUP_SIZE, self.scales
        )
        return out if self.bias is None else out + self.bias


def pack_int4(matrix: Linear) -> Int4Linear:
    """Pack a matrix for torch; rows must be a multiple of 16, columns of 32."""
    groups = quantize_int4(matrix.weight)
    scales = torch.stack((groups.scales, groups.minimums + 8 * groups.scales), -1).transpose(0, 1)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(groups.codes.flatten(1).int(), 1)
    return Int4Linear(packed, scales.to(matrix.weight.dtype).contiguous(), matrix.bias)
