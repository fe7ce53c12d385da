"""Decode tokens with the compiled C kernel, called by ctypes."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from chatlm.engines.model import Unsupported
from chatlm.engines.native.compiler import KernelUnavailable
from chatlm.engines.native.kv_cache import (
    LANES,
    SequenceInput,
    allocate_huge_pages,
    kv_cache_shape,
)
from chatlm.engines.native.lora import LoraPair, LoraWeights
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.quantization import WeightFormat, choose_format
from chatlm.engines.native.stored_matrix import ELEMENT_TYPES, StoredMatrix
from chatlm.engines.native.weights import (
    LINEAR_FIELDS,
    LayerWeights,
    ModelWeights,
    StoredWeights,
    map_layer,
)

_FORMATS = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4",
)  # fmt: skip
"""Types of stored matrices and formats of packed ones, in the order of the kernel."""

_QUANTIZED = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_1"}
"""The kernel's formats for matrices that are not packed as they are stored."""

_ROW_MULTIPLE = 64
"""A packed row is padded with zeros to a multiple of it."""

_OUT_OF_RANGE = 2
"""What `pack_panels` returns for scales that float16 cannot hold."""


class _PackedMatrixStruct(ctypes.Structure):
    _fields_ = (
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int64),
        ("width", c_int64),
        ("format", c_int64),
    )


class _StoredMatrixStruct(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("type", c_int64),
        ("row_bytes", c_int64),
        ("rows", c_int64),
        ("columns", c_int64),
        ("row_order", c_void_p),
    )


class _LayerStruct(ctypes.Structure):
    _fields_ = (
        *((name, _PackedMatrixStruct) for name in LINEAR_FIELDS),
        *((name, c_void_p) for name in ("input_layernorm", "post_attention_layernorm")),
        *((name, c_void_p) for name in ("q_norm", "k_norm")),
    )


class _ModelStruct(ctypes.Structure):
    _fields_ = (
        ("num_hidden_layers", c_int64),
        ("hidden_size", c_int64),
        ("num_attention_heads", c_int64),
        ("num_key_value_heads", c_int64),
        ("head_dim", c_int64),
        ("intermediate_size", c_int64),
        ("rms_norm_eps", c_float),
        ("embed_tokens", _StoredMatrixStruct),
        ("layers", POINTER(_LayerStruct)),
        ("norm", c_void_p),
        ("lm_head", _PackedMatrixStruct),
    )


class _SequenceInputStruct(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("k_cache", "v_cache", "k_scales", "v_scales")),
        *((name, c_int64) for name in ("layer_stride", "head_stride", "token_stride", "length")),
        ("token_count", c_int64),
        ("lora", c_void_p),
    )


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix in the kernel's layout."""

    panels: Tensor
    """Bytes."""
    bias: Tensor | None
    """(panels * 16,), float32"""
    rows: int
    """16 rows are a panel."""
    columns: int
    width: int
    """Padded columns."""
    format: str
    """One of `_FORMATS`."""

    def as_struct(self) -> Any:
        """Return the kernel's struct, valid while this object lives."""
        return _PackedMatrixStruct(
            self.panels.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            self.rows,
            self.width,
            _FORMATS.index(self.format),
        )


class Kernel:
    """The functions of one compiled kernel.

    Args:
        library: as returned by `kernel_library`.
        dtype: for which it was compiled.

    Raises:
        KernelUnavailable: the system cannot load it.
    """

    def __init__(self, library: Path, dtype: torch.dtype) -> None:
        try:
            functions = ctypes.CDLL(str(library))
            functions.panel_bytes.argtypes = (c_int64, c_int64)
            functions.panel_bytes.restype = c_int64
            functions.pack_panels.argtypes = (
                POINTER(_StoredMatrixStruct), c_int64, c_int64, c_int64, c_int64, c_void_p,
            )  # fmt: skip
            functions.read_rows.argtypes = (
                c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int64, c_void_p,
            )  # fmt: skip
            functions.read_rows.restype = None
            functions.multiply_matrix.argtypes = (
                c_void_p, POINTER(_PackedMatrixStruct), c_void_p, c_int64, c_int64, c_void_p,
                c_void_p,
            )  # fmt: skip
            functions.open_decoder.argtypes = (POINTER(_ModelStruct), c_int)
            functions.open_decoder.restype = c_void_p
            functions.close_decoder.argtypes = (c_void_p,)
            functions.close_decoder.restype = None
            functions.decode.argtypes = (
                c_void_p, POINTER(_SequenceInputStruct), c_int64, c_void_p, c_void_p, c_void_p,
            )  # fmt: skip
            functions.max_step_tokens.restype = c_int64
        except (OSError, AttributeError) as error:
            raise KernelUnavailable(f"{library} cannot be loaded: {error}") from error
        self.functions = functions
        self.dtype = dtype

    def pack(self, matrix: StoredMatrix, packed_format: str) -> PackedMatrix:
        """Pack a matrix in its own format, or convert it to BF16, Q8_0 or Q4_1.

        A matrix that Q8_0 or Q4_1 cannot hold, since its weights are too small or too large for
        scales in float16, becomes BF16.

        Raises:
            Unsupported: the type of the matrix is unknown, or its scales are damaged.
            MemoryError: there is not enough memory.
        """
        if matrix.type not in _FORMATS:
            raise Unsupported(f"its weights are stored as {matrix.type}")
        code = _FORMATS.index(packed_format)
        panels = -(-matrix.rows // LANES)
        width = -(-matrix.columns // _ROW_MULTIPLE) * _ROW_MULTIPLE
        # prompts take panels in pairs
        even_panels = panels + panels % 2
        packed = allocate_huge_pages(even_panels * self.functions.panel_bytes(code, width))
        stored = as_stored_struct(matrix)
        status = self.functions.pack_panels(
            ctypes.byref(stored), code, width, 0, panels, packed.data_ptr()
        )
        matrix.release()
        if status == _OUT_OF_RANGE:
            if packed_format == matrix.type:
                raise Unsupported("its scales are not finite, so the file is damaged")
            return self.pack(matrix, "BF16")
        if status:
            raise MemoryError
        bias = None if matrix.bias is None else pad(matrix.bias, (0, -matrix.rows % LANES))
        return PackedMatrix(packed, bias, matrix.rows, matrix.columns, width, packed_format)

    def read_rows(self, matrix: StoredMatrix, indices: Tensor) -> Tensor:
        """Return rows of a stored matrix in float32: (rows, columns)."""
        if matrix.row_order is not None:
            indices = matrix.row_order[indices]
        indices = indices.long().contiguous()
        out = torch.empty(len(indices), matrix.columns)
        self.functions.read_rows(
            matrix.data.data_ptr(), _FORMATS.index(matrix.type), matrix.data.stride(0),
            matrix.columns, indices.data_ptr(), len(indices), out.data_ptr(),
        )  # fmt: skip
        return out


def as_stored_struct(matrix: StoredMatrix) -> _StoredMatrixStruct:
    """Return the kernel's struct, valid while the matrix lives."""
    order = matrix.row_order
    return _StoredMatrixStruct(
        matrix.data.data_ptr(),
        _FORMATS.index(matrix.type),
        matrix.data.stride(0),
        matrix.rows,
        matrix.columns,
        None if order is None else order.data_ptr(),
    )


class _Handle:
    """An open decoder of the kernel, closed with its last user; one call at a time.

    Args:
        kernel: the kernel.
        model: its struct.
        threads: at least one.
        keepalive: memory that the struct points to.
    """

    def __init__(
        self, kernel: Kernel, model: _ModelStruct, threads: int, keepalive: Sequence[Any]
    ) -> None:
        handle = kernel.functions.open_decoder(ctypes.byref(model), threads)
        if not handle:
            raise MemoryError
        self.functions = kernel.functions
        self.pointer = c_void_p(handle)
        self.lock = Lock()
        self._keepalive = (model, *keepalive)
        self.close = weakref.finalize(self, kernel.functions.close_decoder, self.pointer)
        self.close.atexit = False  # a thread may still be decoding when the program ends


@dataclass(frozen=True)
class PackedLinear:
    """A packed matrix that multiplies whole blocks of a prompt."""

    matrix: PackedMatrix
    handle: _Handle
    dtype: torch.dtype
    is_lm_head: bool = False
    """Whether its results are float32."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, see `MatMul`.

        Raises:
            MemoryError: there is not enough memory.
        """
        x = x.to(self.dtype).contiguous()
        if x.dim() != 2 or x.shape[1] != self.matrix.columns:
            raise ValueError(f"vectors of the shape {tuple(x.shape)}")
        dtype = torch.float32 if self.is_lm_head else self.dtype
        y = torch.empty(len(x), self.matrix.rows, dtype=dtype)
        matrix = self.matrix.as_struct()
        with self.handle.lock:
            status = self.handle.functions.multiply_matrix(
                self.handle.pointer, ctypes.byref(matrix), x.data_ptr(), x.shape[1], len(x),
                None if self.is_lm_head else y.data_ptr(),
                y.data_ptr() if self.is_lm_head else None,
            )  # fmt: skip
        if status:
            raise MemoryError
        return y


@dataclass(frozen=True)
class StoredEmbedding:
    """An embedding whose rows are read from the file when they are needed."""

    matrix: StoredMatrix
    kernel: Kernel

    def __call__(self, ids: Tensor) -> Tensor:
        """Look up, see `Embed`."""
        return self.kernel.read_rows(self.matrix, ids).to(self.kernel.dtype)


class CDecoder:
    """A decoder with packed weights and the kernel's threads.

    Args:
        kernel: compiled for a dtype, that of the KV cache and of a prompt's activations.
        config: of the model.
        weights: of the model.
        weight_format: of the packed matrices. None for `choose_format`, except that matrices
            that are quantized already stay as they are; with int4 the output matrix is int8.
        threads: at least one.

    Raises:
        Unsupported: see `check_supported`.
        MemoryError: there is not enough memory for them.
    """

    @staticmethod
    def check_supported(config: ModelConfig) -> None:
        """Refuse a block other than the kernel's: pre-norms, no multipliers, QK norm per head.

        Raises:
            Unsupported: the model has such a block.
        """
        if set(config.tensor_names.norms) != {"pre_attention_norm", "pre_mlp_norm"}:
            raise Unsupported("the C kernel normalizes only the inputs of attention and MLP")
        if config.qk_norm not in (None, "head"):
            raise Unsupported("the C kernel normalizes queries and keys only per head")
        multipliers = (
            config.embedding_multiplier, config.residual_multiplier, config.logits_scaling,
        )  # fmt: skip
        if config.attention_multiplier is not None or any(factor != 1.0 for factor in multipliers):
            raise Unsupported("the C kernel has no multipliers")

    def __init__(
        self,
        kernel: Kernel,
        config: ModelConfig,
        weights: StoredWeights,
        weight_format: WeightFormat | None,
        threads: int,
    ) -> None:
        self.check_supported(config)
        if threads < 1:
            raise ValueError("no thread")
        self._config, self._kernel = config, kernel
        self._keepalive: list[Any] = [weights.embed_tokens]
        """Memory that the kernel points to."""
        self.formats: set[str] = set()
        """Formats of the layers' matrices."""
        with ThreadPoolExecutor(threads) as pool:
            head = pool.submit(self._pack_head, weights.lm_head, weight_format)
            layers = list(
                pool.map(lambda layer: self._pack_layer(layer, weight_format), weights.layers)
            )
        model = _ModelStruct(
            config.num_hidden_layers, config.hidden_size, config.num_attention_heads,
            config.num_key_value_heads, config.head_dim, config.intermediate_size,
            config.rms_norm_eps,
            as_stored_struct(weights.embed_tokens),
            (_LayerStruct * len(layers))(*(self._layer_struct(layer) for layer in layers)),
            self._float_pointer(weights.norm),
            head.result().as_struct(),
        )  # fmt: skip
        self._handle = _Handle(kernel, model, threads, self._keepalive)
        self.weights = self._prompt_weights(weights, layers, head.result())
        """The packed weights, for prompts."""
        self.close = self._handle.close

    def _pack(self, matrix: StoredMatrix, weight_format: str) -> PackedMatrix:
        packed_format = matrix.type if weight_format == "stored" else _QUANTIZED[weight_format]
        packed = self._kernel.pack(matrix, packed_format)
        self._keepalive.append(packed)
        return packed

    def _pack_head(self, matrix: StoredMatrix, weight_format: WeightFormat | None) -> PackedMatrix:
        if weight_format is None:
            return self._pack(matrix, "stored" if _is_quantized(matrix) else "int8")
        return self._pack(matrix, "int8" if weight_format == "int4" else weight_format)

    def _pack_layer(
        self, layer: LayerWeights[StoredMatrix], weight_format: WeightFormat | None
    ) -> LayerWeights[PackedMatrix]:
        def pack(matrix: StoredMatrix) -> PackedMatrix:
            chosen: str | None = weight_format
            if chosen is None:
                chosen = "stored" if _is_quantized(matrix) else choose_format([matrix])
            packed = self._pack(matrix, chosen)
            self.formats.add(packed.format)
            return packed

        return map_layer(layer, pack, lambda vector: vector)

    def _layer_struct(self, layer: LayerWeights[PackedMatrix]) -> Any:
        return _LayerStruct(
            *(getattr(layer, name).as_struct() for name in LINEAR_FIELDS),
            self._float_pointer(layer.pre_attention_norm),
            self._float_pointer(layer.pre_mlp_norm),
            self._float_pointer(layer.q_norm),
            self._float_pointer(layer.k_norm),
        )

    def _prompt_weights(
        self,
        stored: StoredWeights,
        layers: Sequence[LayerWeights[PackedMatrix]],
        head: PackedMatrix,
    ) -> ModelWeights[PackedLinear, StoredEmbedding]:
        dtype = self._kernel.dtype

        def linear(matrix: PackedMatrix) -> PackedLinear:
            return PackedLinear(matrix, self._handle, dtype)

        def vector(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.to(dtype)

        return ModelWeights(
            embed_tokens=StoredEmbedding(stored.embed_tokens, self._kernel),
            layers=tuple(map_layer(layer, linear, vector) for layer in layers),
            norm=stored.norm.to(dtype),
            lm_head=PackedLinear(head, self._handle, dtype, is_lm_head=True),
        )

    def _float_pointer(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        floats = tensor.float().contiguous()
        self._keepalive.append(floats)
        return floats.data_ptr()

    def pack_adapter(self, lora: LoraWeights) -> PackedAdapter:
        """Pack a LoRA adapter for the kernel."""
        return PackedAdapter(lora, self._kernel.dtype)

    @property
    def max_step_tokens(self) -> int:
        """Limit of tokens per decode step."""
        return int(self._kernel.functions.max_step_tokens())

    def decode(self, sequences: Sequence[SequenceInput], rope: Tensor) -> Tensor:
        """Decode tokens of several sequences, bit for bit as one token per call.

        Raises:
            ValueError: a cache or table is of another model, or there are too many tokens.
            MemoryError: there is not enough memory.
        """
        tokens = [token for sequence in sequences for token in sequence.tokens]
        if not 0 < len(tokens) <= self.max_step_tokens or not all(
            sequence.tokens for sequence in sequences
        ):
            raise ValueError(f"cannot decode {len(tokens)} tokens at once")
        if unknown := [token for token in tokens if not 0 <= token < self._config.vocab_size]:
            raise ValueError(f"there is no token {unknown[0]}")
        if len({id(sequence.kv_cache) for sequence in sequences}) < len(sequences):
            raise ValueError("the same KV cache occurs twice")
        if len({sequence.kv_cache.kv_format for sequence in sequences}) > 1:
            raise ValueError("the KV caches have different formats")
        structs = (_SequenceInputStruct * len(sequences))(
            *(self._sequence_struct(sequence, rope) for sequence in sequences)
        )
        logits = torch.empty(len(tokens), self._config.vocab_size)
        with self._handle.lock:
            status = self._kernel.functions.decode(
                self._handle.pointer,
                structs,
                len(sequences),
                (c_int64 * len(tokens))(*tokens),
                rope.data_ptr(),
                logits.data_ptr(),
            )
        if status:
            raise MemoryError
        for sequence in sequences:
            sequence.kv_cache.length += len(sequence.tokens)
        return logits

    def _sequence_struct(self, sequence: SequenceInput, rope: Tensor) -> Any:
        config, kv_cache = self._config, sequence.kv_cache
        length, count = kv_cache.length, len(sequence.tokens)
        kv_cache.reserve(length + count)
        kv, scales = kv_cache.buffer.kv, kv_cache.buffer.scales
        if (
            kv.shape != kv_cache_shape(config, kv_cache.capacity, kv_cache.kv_format)
            or not kv.is_contiguous()
            or (scales is None and kv.dtype != self._kernel.dtype)
        ):
            raise ValueError("the KV cache is of another model")
        if rope.shape[0] < length + count or rope.shape[1] != config.head_dim:
            raise ValueError("the RoPE table is of another model")
        adapter = sequence.adapter
        return _SequenceInputStruct(
            kv[0].data_ptr(),
            kv[1].data_ptr(),
            *((None, None) if scales is None else (scales[0].data_ptr(), scales[1].data_ptr())),
            *kv.stride()[1:4],
            length,
            count,
            None if adapter is None else ctypes.addressof(adapter.structs),
        )


class _LoraPairStruct(ctypes.Structure):
    """A LoRA pair in the kernel's layout."""

    _fields_ = (
        ("lora_a", c_void_p),
        ("lora_b", c_void_p),
        *((name, c_int64) for name in ("rank", "a_stride", "b_stride", "rows")),
        ("scale", c_float),
    )


class PackedAdapter:
    """A LoRA adapter in the kernel's layout.

    Args:
        lora: the adapter, of the model.
        dtype: of the kernel.
    """

    def __init__(self, lora: LoraWeights, dtype: torch.dtype) -> None:
        self._keepalive: list[Tensor] = []
        """Memory that the kernel points to."""
        packed = [self._pack(layer.get(name), dtype) for layer in lora for name in LINEAR_FIELDS]
        self.structs = (_LoraPairStruct * len(packed))(*packed)
        """(layers, targets), valid while this object lives."""

    def _pack(self, pair: LoraPair | None, dtype: torch.dtype) -> _LoraPairStruct:
        if pair is None:
            return _LoraPairStruct()
        rows, rank = pair.lora_b.shape
        lora_a = pad(pair.lora_a.to(dtype), (0, -pair.lora_a.shape[1] % LANES))
        lora_b = pad(pair.lora_b.to(dtype).T, (0, LANES + -rows % LANES)).contiguous()
        self._keepalive += [lora_a, lora_b]
        return _LoraPairStruct(
            lora_a.data_ptr(),
            lora_b.data_ptr(),
            rank,
            lora_a.shape[1],
            lora_b.shape[1],
            rows,
            pair.scale,
        )


def _is_quantized(matrix: StoredMatrix) -> bool:
    return matrix.type not in ELEMENT_TYPES.values()
