"""Read matrices that GPTQ, AWQ and compressed-tensors quantized, without loss.

A weight is `scale * (code - zero)`. The codes are repacked into blocks of 32 columns: Q4_0 and
Q8_0 where every zero is the middle code, else Q4_Z and Q8_Z, whose blocks have a scale, a zero
point, both in float16, and the codes. Each matrix is repacked when it is needed, so that no second
copy of the model is in memory.

Sources of the layouts: GPTQModel (https://github.com/ModelCloud/GPTQModel), AutoAWQ
(https://github.com/casper-hansen/AutoAWQ) and compressed-tensors
(https://github.com/vllm-project/compressed-tensors).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.stored_matrix import (
    StoredExperts,
    StoredMatrix,
    TensorReader,
    release_pages,
)
from chatlm.hub.quantization_config import BLOCK_COLUMNS, QuantizedLayout

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each nibble of a word holds, from the lowest."""


class RawTensors(TensorReader, Protocol):
    """A `TensorReader` that also gives tensors as they are."""

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        ...

    def raw(self, name: str) -> Tensor:
        """Return a tensor, mapped into memory.

        Raises:
            Unsupported: there is no such tensor.
        """
        ...


class QuantizedTensors:
    """A `TensorReader` of a checkpoint with quantized matrices; others are read as they are.

    Args:
        plain: reads its files.
        layout: of its quantized matrices.
    """

    def __init__(self, plain: RawTensors, layout: QuantizedLayout) -> None:
        self._plain = plain
        self._layout = layout

    def matrix(self, name: str, rows: int, columns: int) -> StoredMatrix:
        """Return a matrix without its bias."""
        module = name.removesuffix(".weight")
        packed = "weight_packed" if self._layout.method == "compressed-tensors" else "qweight"
        if not self._plain.has(f"{module}.{packed}"):
            return self._plain.matrix(name, rows, columns)
        quantized = _MODULES[self._layout.method](self._plain, module, rows, columns, self._layout)
        return quantized.as_stored(module)

    def matrices(self, name: str, rows: Sequence[int], columns: int) -> tuple[StoredMatrix, ...]:
        """Return a matrix without its bias in parts."""
        return self.matrix(name, sum(rows), columns).split_rows(rows)

    def vector(self, name: str, *shape: int) -> Tensor:
        """Return a vector in float32."""
        return self._plain.vector(name, *shape)

    def experts(
        self, name: str, count: int, rows: int, columns: int, parts: int
    ) -> tuple[StoredExperts, ...]:
        """Refuse quantized experts."""
        raise Unsupported(f"{name}: quantized experts are not read")

    def stacked_experts(
        self, name: str, count: int, rows: int, columns: int, parts: int
    ) -> tuple[StoredExperts, ...]:
        """Refuse quantized experts."""
        raise Unsupported(f"{name}: quantized experts are not read")

    def check_all_used(self, ignored: tuple[str, ...]) -> None:
        """Refuse tensors that the architecture does not have."""
        self._plain.check_all_used(ignored)


@dataclass(frozen=True)
class _Quantized:
    """A matrix of codes with the scales and zero points of its groups of columns."""

    columns: int
    bits: int
    codes: Callable[[], Tensor]
    """Unpacks the codes: (rows, columns), uint8."""
    scales: Tensor
    """(rows, groups), of any floating dtype."""
    zeros: Tensor
    """(rows, groups), int32."""

    def as_stored(self, module: str) -> StoredMatrix:
        """Describe it as a matrix that is repacked when it is needed.

        Raises:
            Unsupported: a scale has no exact value in float16, or columns do not fill blocks.
        """
        scales = self.scales.to(torch.float16)
        if not torch.equal(scales.float(), self.scales.float()) or not scales.isfinite().all():
            raise Unsupported(f"the scales of {module} have no exact value in float16")
        groups = self.scales.shape[1]
        if self.columns % (groups * BLOCK_COLUMNS):
            raise Unsupported(
                f"the columns of {module} are not divided into groups of whole blocks"
            )
        blocks = self.columns // groups // BLOCK_COLUMNS
        middle = 1 << (self.bits - 1)
        is_symmetric = bool((self.zeros == middle).all())
        kind = f"Q{self.bits}_0" if is_symmetric else f"Q{self.bits}_Z"

        def convert() -> Tensor:
            codes = self.codes().unflatten(1, (-1, BLOCK_COLUMNS))
            factors = [scales] if is_symmetric else [scales, self.zeros.to(torch.float16)]
            parts = [
                each.repeat_interleave(blocks, 1)[..., None].contiguous().view(torch.uint8)
                for each in factors
            ]
            if self.bits == 4:
                parts.append(codes[..., :16] | codes[..., 16:] << 4)
            else:
                parts.append(codes ^ 0x80 if is_symmetric else codes)
            return torch.cat(parts, -1).flatten(1)

        return StoredMatrix(
            torch.empty((len(scales), 0), dtype=torch.uint8), kind, self.columns, convert=convert
        )


def _unpack(words: Tensor, bits: int, dim: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Unpack int32 words along a dimension into uint8 codes, the lowest bits first.

    Args:
        words: (…,) int32.
        bits: of a code.
        dim: along which the codes of a word follow each other.
        order: the place of each code of a word, from the lowest bits; None for the same.
    """
    count = 32 // bits
    places = order or tuple(range(count))
    mask = (1 << bits) - 1
    parts: list[Tensor] = [torch.empty(0)] * count
    for number, place in enumerate(places):
        parts[place] = (words >> bits * number & mask).to(torch.uint8)
    return torch.stack(parts, dim + 1).flatten(dim, dim + 1)


def _check_shape(name: str, tensor: Tensor, *shape: int) -> None:
    if tuple(tensor.shape) != shape:
        raise Unsupported(f"{name} is {tuple(tensor.shape)}, not {shape}")


def _bits(name: str, packed: int, values: int) -> int:
    """Return the bits of codes of which `values` take `packed` words."""
    for bits in (4, 8):
        if packed == -(-values * bits // 32):
            return bits
    raise Unsupported(f"{name} holds {packed} words for {values} weights")


def _check_order(plain: RawTensors, name: str, columns: int, groups: int) -> None:
    """Refuse groups whose columns are not next to each other (act-order)."""
    if not plain.has(name):
        return
    order = plain.raw(name)
    if bool((order < 0).all()):  # compressed-tensors: not set
        return
    if not torch.equal(order.long(), torch.arange(columns) // (columns // groups)):
        raise Unsupported(
            f"{name} mixes the columns of its groups (desc_act); a version without act-order, or a "
            "GGUF file, can be read"
        )


def _gptq(
    plain: RawTensors, module: str, rows: int, columns: int, layout: QuantizedLayout
) -> _Quantized:
    """qweight packs input columns, (columns / n, rows); qzeros pack rows, (groups, rows / n)."""
    words, scales = plain.raw(f"{module}.qweight"), plain.raw(f"{module}.scales")
    bits = _bits(module, words.shape[0], columns)
    groups = scales.shape[0]
    _check_shape(f"{module}.qweight", words, columns * bits // 32, rows)
    _check_shape(f"{module}.scales", scales, groups, rows)
    _check_order(plain, f"{module}.g_idx", columns, groups)
    zeros = plain.raw(f"{module}.qzeros")
    _check_shape(f"{module}.qzeros", zeros, groups, rows * bits // 32)

    def codes() -> Tensor:
        unpacked = _unpack(words, bits, 0).T.contiguous()
        release_pages(words)
        return unpacked

    points = _unpack(zeros, bits, 1).int() + layout.zero_offset
    if bool((points == 1 << bits).any()):  # programs read it as that, as 0, or as an overflow
        raise Unsupported(f"{module} has zero points that GPTQ's first layout cannot express")
    return _Quantized(columns, bits, codes, scales.T.contiguous(), points.T.contiguous())


def _awq(
    plain: RawTensors, module: str, rows: int, columns: int, layout: QuantizedLayout
) -> _Quantized:
    """qweight, (columns, rows / 8), and qzeros, (groups, rows / 8), pack rows, interleaved."""
    words, scales = plain.raw(f"{module}.qweight"), plain.raw(f"{module}.scales")
    groups = scales.shape[0]
    zeros = plain.raw(f"{module}.qzeros")
    _check_shape(f"{module}.qweight", words, columns, rows // 8)
    _check_shape(f"{module}.scales", scales, groups, rows)
    _check_shape(f"{module}.qzeros", zeros, groups, rows // 8)

    def codes() -> Tensor:
        unpacked = _unpack(words, 4, 1, _AWQ_ORDER).T.contiguous()
        release_pages(words)
        return unpacked

    points = _unpack(zeros, 4, 1, _AWQ_ORDER).int() + layout.zero_offset
    return _Quantized(columns, 4, codes, scales.T.contiguous(), points.T.contiguous())


def _compressed_tensors(
    plain: RawTensors, module: str, rows: int, columns: int, layout: QuantizedLayout
) -> _Quantized:
    """weight_packed, (rows, columns / n); zero points pack rows, (rows / n, groups)."""
    words = plain.raw(f"{module}.weight_packed")
    scales = plain.raw(f"{module}.weight_scale")
    bits = _bits(module, words.shape[1], columns)
    groups = scales.shape[1]
    if plain.has(f"{module}.weight_shape"):
        shape = plain.raw(f"{module}.weight_shape").tolist()
        if shape != [rows, columns]:
            raise Unsupported(f"{module} is {tuple(shape)}, not {(rows, columns)}")
    _check_shape(f"{module}.weight_packed", words, rows, columns * bits // 32)
    _check_shape(f"{module}.weight_scale", scales, rows, groups)
    _check_order(plain, f"{module}.weight_g_idx", columns, groups)
    points = torch.full((rows, groups), 1 << (bits - 1), dtype=torch.int32)
    if plain.has(f"{module}.weight_zero_point"):
        zeros = plain.raw(f"{module}.weight_zero_point")
        _check_shape(f"{module}.weight_zero_point", zeros, -(-rows * bits // 32), groups)
        points = _unpack(zeros, bits, 0)[:rows].int()

    def codes() -> Tensor:
        unpacked = _unpack(words, bits, 1)
        release_pages(words)
        return unpacked

    return _Quantized(columns, bits, codes, scales, points)


_MODULES = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed_tensors}
"""Readers of a quantized matrix by method."""
