"""Numbers rounded to 4 bits, and whether a model's weights lose nothing by it.

In each group of 32 columns a number is `low + step * level`, with a level from 0 to 15.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from chatlm.engines.fast.weights import Format, Linear

GROUP = 32

_EIGHT_BITS = 64
"""Columns that share a scale when 8 bits are kept."""

_SAMPLED = 16
"""Rows of a matrix that are looked at."""

_EXACT = 1e-4
"""Of a group's squared span; a smaller squared error comes from rounding to bfloat16."""


@dataclass(frozen=True)
class Rounded:
    """Groups of numbers in 4 bits; each tensor begins with (rows, groups)."""

    levels: Tensor
    """(…, 32), float32"""
    steps: Tensor
    lows: Tensor
    errors: Tensor
    """Sums of squares."""


def rounded(weight: Tensor) -> Rounded:
    """Round a matrix, whose columns are a multiple of 32, as the kernel's INT4 does.

    A step is the fifteenth part of what the group spans, but for numbers that had 4 bits before
    and do not span all of them.
    """
    groups = weight.float().unflatten(-1, (-1, GROUP))
    lows = _bf16(groups.amin(-1))
    spans = groups.amax(-1) - lows
    found = _rounded_to(groups, lows, spans, 15)
    for parts in range(14, 7, -1):
        left = found.errors > _EXACT * spans.square()
        other = _rounded_to(groups[left], lows[left], spans[left], parts)
        better = 8 * other.errors < found.errors[left]
        left[left.clone()] = better
        for name in ("levels", "steps", "errors"):
            getattr(found, name)[left] = getattr(other, name)[better]
    return found


def _rounded_to(groups: Tensor, lows: Tensor, spans: Tensor, parts: int) -> Rounded:
    steps = _bf16(spans / parts)
    above = groups - lows[..., None]
    levels = (above / steps[..., None].clamp(min=1e-30)).round().clamp(0, 15)
    errors = (above - steps[..., None] * levels).square().sum(-1)
    return Rounded(levels, steps, lows, errors)


def _bf16(values: Tensor) -> Tensor:
    return values.bfloat16().float()


def fitting(matrices: Sequence[Linear]) -> Format:
    """int4 for matrices that it keeps at least as exactly as int8 does, else int8.

    Some rows of each tell; what stands behind the last whole 64 columns is not looked at.
    """
    return "int4" if all(_fits(matrix.weight) for matrix in matrices) else "int8"


def _fits(weight: Tensor) -> bool:
    columns = weight.shape[1] // _EIGHT_BITS * _EIGHT_BITS
    rows = weight[:: -(-len(weight) // _SAMPLED), :columns].float()
    groups = rows.unflatten(-1, (-1, _EIGHT_BITS))
    steps = _bf16(groups.abs().amax(-1, keepdim=True) / 127)
    levels = (groups / steps.clamp(min=1e-30)).round()
    error = (groups - steps * levels).square().sum()
    return columns > 0 and bool(rounded(rows).errors.sum() <= error)
