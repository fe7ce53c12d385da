"""The C kernel by ctypes: packed weights and adapter, decode."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from chatlm.engines.native.compiler import KernelUnavailable
from chatlm.engines.native.kv_cache import LANES, SequenceInput, allocate_huge_pages
from chatlm.engines.native.lora import LoraPair, LoraWeights
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.quantization import WeightFormat, choose_format
from chatlm.engines.native.weights import LayerWeights, Linear, ModelWeights

_FORMAT_CODES = {"bf16": 0, "int8": 1, "int4": 2}


_ROW_MULTIPLE = 64
"""A packed row's numbers are followed by zeros up to a multiple of it."""


class _PackedMatrixStruct(ctypes.Structure):
    _fields_ = (
        ("bands", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("count", c_int64),
        ("width", c_int64),
        ("format", c_int64),
    )


class _LayerStruct(ctypes.Structure):
    _fields_ = (
        *(
            (name, _PackedMatrixStruct)
            for name in ("query_key_value", "output", "gate", "up", "down")
        ),
        *((name, c_void_p) for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm")),
    )


class _ModelStruct(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "hidden", "heads", "key_heads", "head_size")),
        ("inner", c_int64),
        ("epsilon", c_float),
        ("embedding", c_void_p),
        ("layer", POINTER(_LayerStruct)),
        ("norm", c_void_p),
        ("head", _PackedMatrixStruct),
    )


class _SequenceStruct(ctypes.Structure):
    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        *((name, c_int64) for name in ("layer_stride", "head_stride", "row_stride", "length")),
        ("count", c_int64),
        ("adapter", c_void_p),
    )


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix as the kernel reads it."""

    bands: Tensor
    """Bytes."""
    scales: Tensor
    """(bands, width / 64, 16), bfloat16; of use with int8 only."""
    bias: Tensor | None
    """(bands · 16,), float32"""
    count: int
    """Rows; 16 are a band."""
    width: int
    format: WeightFormat

    def structure(self) -> Any:
        """What the kernel takes; of use while this object lives."""
        return _PackedMatrixStruct(
            self.bands.data_ptr(),
            self.scales.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            self.count,
            self.width,
            _FORMAT_CODES[self.format],
        )


class Kernel:
    """The functions of one compiled kernel.

    Args:
        library: what `kernel_library` gives.
        dtype: the number format it was compiled for.

    Raises:
        NoKernel: the system refuses to load it.
    """

    def __init__(self, library: Path, dtype: torch.dtype) -> None:
        try:
            functions = ctypes.CDLL(str(library))
            functions.row_bytes.argtypes = (c_int64, c_int64)
            functions.row_bytes.restype = c_int64
            functions.pack.argtypes = (
                c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64, c_void_p, c_void_p,
            )  # fmt: skip
            functions.open_decoder.argtypes = (POINTER(_ModelStruct), c_int)
            functions.open_decoder.restype = c_void_p
            functions.close_decoder.argtypes = (c_void_p,)
            functions.close_decoder.restype = None
            functions.decode.argtypes = (
                c_void_p, POINTER(_SequenceStruct), c_int64, c_void_p, c_void_p, c_void_p,
            )  # fmt: skip
            functions.most_at_once.restype = c_int64
        except (OSError, AttributeError) as error:
            raise KernelUnavailable(f"{library} cannot be loaded: {error}") from error
        self.functions = functions
        self.dtype = dtype

    def pack(self, parts: Sequence[Linear], form: WeightFormat) -> PackedMatrix:
        """Matrices of the same width, one below the other, as one packed matrix.

        Raises:
            ValueError: a matrix has another width or number format.
            MemoryError: there is no room for it.
        """
        columns = parts[0].weight.shape[1]
        count = sum(part.weight.shape[0] for part in parts)
        width = -(-columns // _ROW_MULTIPLE) * _ROW_MULTIPLE
        whole = -(-count // LANES) * LANES
        bands = allocate_huge_pages(whole * self.functions.row_bytes(_FORMAT_CODES[form], width))
        scales = torch.zeros((whole // LANES, width // _ROW_MULTIPLE, LANES), dtype=torch.bfloat16)
        at = 0
        for part in parts:
            weight = part.weight
            if weight.shape[1] != columns or weight.dtype != self.dtype:
                raise ValueError("a matrix of another width or number format")
            weight = weight.contiguous()
            if self.functions.pack(
                weight.data_ptr(),
                weight.shape[0],
                columns,
                _FORMAT_CODES[form],
                width,
                at,
                bands.data_ptr(),
                scales.data_ptr(),
            ):
                raise MemoryError
            at += weight.shape[0]
        biases = [part.bias for part in parts if part.bias is not None]
        if biases and len(biases) != len(parts):
            raise ValueError("some matrices have a bias and some have none")
        bias = torch.cat([*biases, torch.zeros(whole - count)]).float() if biases else None
        return PackedMatrix(bands, scales, bias, count, width, form)


class CDecoder:
    """A model's packed weights and the threads that read them.

    Args:
        kernel: compiled for the weights' number format.
        shape: of the model.
        weights: of the model.
        form: format of the packed matrices, None for what `fitting` says; with int4 the output
            matrix is int8.
        threads: at least one.

    Raises:
        MemoryError: there is no room for them.
    """

    def __init__(
        self,
        kernel: Kernel,
        shape: ModelConfig,
        weights: ModelWeights[Linear],
        form: WeightFormat | None,
        threads: int,
    ) -> None:
        if weights.embedding.dtype != kernel.dtype or threads < 1:
            raise ValueError("a kernel for another number format, or no thread")
        self._shape, self._kernel = shape, kernel
        self._embedding = weights.embedding.contiguous()
        self._alive: list[Any] = []
        """What the kernel points to."""
        self.formats: set[WeightFormat] = set()
        """Of the layers' matrices."""
        with ThreadPoolExecutor(threads) as pool:
            head_form: WeightFormat = "bf16" if form == "bf16" else "int8"
            head = pool.submit(self._packed, head_form, weights.head)
            layers = list(pool.map(lambda layer: self._layer(layer, form), weights.layers))
        model = _ModelStruct(
            shape.layers, shape.hidden, shape.heads, shape.key_heads, shape.head_size, shape.inner,
            shape.epsilon,
            self._embedding.data_ptr(),
            (_LayerStruct * len(layers))(*layers),
            self._floats(weights.norm),
            head.result(),
        )  # fmt: skip
        handle = kernel.functions.open_decoder(ctypes.byref(model), threads)
        if not handle:
            raise MemoryError
        self._handle = c_void_p(handle)
        self._alive.append(model)
        self.close = weakref.finalize(self, kernel.functions.close_decoder, self._handle)
        self.close.atexit = False  # a thread may still be decoding when the program ends

    def _packed(self, form: WeightFormat, *parts: Linear) -> Any:
        packed = self._kernel.pack(parts, form)
        self._alive.append(packed)
        return packed.structure()

    def _floats(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._alive.append(kept := tensor.float().contiguous())
        return kept.data_ptr()

    def _layer(self, layer: LayerWeights[Linear], form: WeightFormat | None) -> Any:
        def chosen(*parts: Linear) -> WeightFormat:
            self.formats.add(found := form or choose_format(parts))
            return found

        inner = chosen(layer.gate, layer.up)  # the kernel takes pieces of both at once
        projected = (layer.query, layer.key, layer.value)
        return _LayerStruct(
            self._packed(chosen(*projected), *projected),
            self._packed(chosen(layer.output), layer.output),
            self._packed(inner, layer.gate),
            self._packed(inner, layer.up),
            self._packed(chosen(layer.down), layer.down),
            self._floats(layer.attention_norm),
            self._floats(layer.mlp_norm),
            self._floats(layer.query_norm),
            self._floats(layer.key_norm),
        )

    def packed(self, additions: LoraWeights) -> PackedAdapter:
        """See `TokenDecoder.packed`."""
        return PackedAdapter(self._shape, additions, self._kernel.dtype)

    @property
    def at_once(self) -> int:
        """See `TokenDecoder.at_once`."""
        return int(self._kernel.functions.most_at_once())

    def decode(self, sequences: Sequence[SequenceInput], turns: Tensor) -> Tensor:
        """See `TokenDecoder.decode`; every number is what a single token would give.

        Raises:
            ValueError: something is of another model, or there are too many tokens.
            MemoryError: there is no room.
        """
        tokens = [token for sequence in sequences for token in sequence.tokens]
        if not 0 < len(tokens) <= self.at_once or not all(each.tokens for each in sequences):
            raise ValueError(f"{len(tokens)} tokens at once")
        if wrong := [token for token in tokens if not 0 <= token < self._shape.vocabulary]:
            raise ValueError(f"there is no token {wrong[0]}")
        if len({id(each.memory) for each in sequences}) < len(sequences):
            raise ValueError("one memory twice")
        structures = (_SequenceStruct * len(sequences))(
            *(self._sequence(sequence, turns) for sequence in sequences)
        )
        logits = torch.empty(len(tokens), self._shape.vocabulary)
        if self._kernel.functions.decode(
            self._handle,
            structures,
            len(sequences),
            (c_int64 * len(tokens))(*tokens),
            turns.data_ptr(),
            logits.data_ptr(),
        ):
            raise MemoryError
        for sequence in sequences:
            sequence.memory.length += len(sequence.tokens)
        return logits

    def _sequence(self, sequence: SequenceInput, turns: Tensor) -> Any:
        shape, memory = self._shape, sequence.memory
        length, count = memory.length, len(sequence.tokens)
        memory.reserve(length + count)
        sides = memory.sides
        row = -(-shape.head_size // LANES) * LANES
        if sides.shape != (2, shape.layers, shape.key_heads, memory.room, row) or (
            sides.dtype != self._kernel.dtype or not sides.is_contiguous()
        ):
            raise ValueError("a memory of another model")
        if turns.shape[0] < length + count or turns.shape[1] != shape.head_size:
            raise ValueError("angles of another model")
        adapter = sequence.adapter
        return _SequenceStruct(
            sides[0].data_ptr(),
            sides[1].data_ptr(),
            *sides.stride()[1:4],
            length,
            count,
            None if adapter is None else ctypes.addressof(adapter.structure),
        )


_LORA_TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
"""In the kernel's order."""


class _LoraPairStruct(ctypes.Structure):
    """What is added to some rows of a packed matrix."""

    _fields_ = (
        ("down", c_void_p),
        ("up", c_void_p),
        *((name, c_int64) for name in ("rank", "width", "stride", "first", "count")),
        ("scale", c_float),
    )


class PackedAdapter:
    """See the module's sentence.

    Args:
        shape: of the model.
        additions: the adapter, which fits the model.
        dtype: the kernel's number format.
    """

    def __init__(self, shape: ModelConfig, additions: LoraWeights, dtype: torch.dtype) -> None:
        self._alive: list[Tensor] = []
        """What the kernel points to."""
        queries, keys = shape.heads * shape.head_size, shape.key_heads * shape.head_size
        first = {"key": queries, "value": queries + keys}
        packed = [
            self._packed(layer.get(name), first.get(name, 0), dtype)
            for layer in additions
            for name in _LORA_TARGETS
        ]
        self.structure = (_LoraPairStruct * len(packed))(*packed)
        """(layers, targets); of use while this object lives."""

    def _packed(self, low: LoraPair | None, first: int, dtype: torch.dtype) -> _LoraPairStruct:
        if low is None:
            return _LoraPairStruct()
        rows, rank = low.up.shape
        down = pad(low.down.to(dtype), (0, -low.down.shape[1] % LANES))
        up = pad(low.up.to(dtype).T, (0, LANES + -rows % LANES)).contiguous()
        self._alive += [down, up]
        return _LoraPairStruct(
            down.data_ptr(), up.data_ptr(), rank, down.shape[1], up.shape[1], first, rows, low.scale
        )
