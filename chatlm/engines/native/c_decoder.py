"""Decode tokens with the compiled C kernel, called by ctypes."""

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
from chatlm.engines.native.weights import LayerWeights, Linear, ModelWeights

_FORMAT_CODES = {"bf16": 0, "int8": 1, "int4": 2}


_ROW_MULTIPLE = 64
"""A packed row is padded with zeros to a multiple of it."""


class _PackedMatrixStruct(ctypes.Structure):
    _fields_ = (
        ("panels", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int64),
        ("width", c_int64),
        ("format", c_int64),
    )


class _LayerStruct(ctypes.Structure):
    _fields_ = (
        *(
            (name, _PackedMatrixStruct)
            for name in ("qkv_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        ),
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
        ("embed_tokens", c_void_p),
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
    scales: Tensor
    """(panels, width / 64, 16), bfloat16; used by int8 only."""
    bias: Tensor | None
    """(panels * 16,), float32"""
    rows: int
    """16 rows are a panel."""
    width: int
    """Padded columns."""
    format: WeightFormat

    def as_struct(self) -> Any:
        """Return the kernel's struct, valid while this object lives."""
        return _PackedMatrixStruct(
            self.panels.data_ptr(),
            self.scales.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            self.rows,
            self.width,
            _FORMAT_CODES[self.format],
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
            functions.packed_row_bytes.argtypes = (c_int64, c_int64)
            functions.packed_row_bytes.restype = c_int64
            functions.pack_rows.argtypes = (
                c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64, c_void_p, c_void_p,
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

    def pack(self, matrices: Sequence[Linear], weight_format: WeightFormat) -> PackedMatrix:
        """Pack matrices of the same width, one below the other, as one.

        Raises:
            ValueError: a matrix has another width or dtype.
            MemoryError: there is not enough memory.
        """
        columns = matrices[0].weight.shape[1]
        count = sum(part.weight.shape[0] for part in matrices)
        width = -(-columns // _ROW_MULTIPLE) * _ROW_MULTIPLE
        whole = -(-count // LANES) * LANES
        bands = allocate_huge_pages(
            whole * self.functions.packed_row_bytes(_FORMAT_CODES[weight_format], width)
        )
        scales = torch.zeros((whole // LANES, width // _ROW_MULTIPLE, LANES), dtype=torch.bfloat16)
        at = 0
        for part in matrices:
            weight = part.weight
            if weight.shape[1] != columns or weight.dtype != self.dtype:
                raise ValueError("a matrix has another width or dtype")
            weight = weight.contiguous()
            if self.functions.pack_rows(
                weight.data_ptr(),
                weight.shape[0],
                columns,
                _FORMAT_CODES[weight_format],
                width,
                at,
                bands.data_ptr(),
                scales.data_ptr(),
            ):
                raise MemoryError
            at += weight.shape[0]
        biases = [part.bias for part in matrices if part.bias is not None]
        if biases and len(biases) != len(matrices):
            raise ValueError("some matrices have a bias and some have none")
        bias = torch.cat([*biases, torch.zeros(whole - count)]).float() if biases else None
        return PackedMatrix(bands, scales, bias, count, width, weight_format)


class CDecoder:
    """A decoder with packed weights and the kernel's threads.

    Args:
        kernel: compiled for the dtype of the weights.
        config: of the model.
        weights: of the model.
        weight_format: of the packed matrices, None for `choose_format`; with int4 the output
            matrix is int8.
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
        weights: ModelWeights[Linear],
        weight_format: WeightFormat | None,
        threads: int,
    ) -> None:
        self.check_supported(config)
        if weights.embed_tokens.dtype != kernel.dtype or threads < 1:
            raise ValueError("a kernel for another dtype, or no thread")
        self._config, self._kernel = config, kernel
        self._embedding = weights.embed_tokens.contiguous()
        self._keepalive: list[Any] = []
        """Memory that the kernel points to."""
        self.formats: set[WeightFormat] = set()
        """Formats of the layers' matrices."""
        with ThreadPoolExecutor(threads) as pool:
            head_format: WeightFormat = "bf16" if weight_format == "bf16" else "int8"
            head = pool.submit(self._pack, head_format, weights.lm_head)
            layers = list(
                pool.map(lambda layer: self._pack_layer(layer, weight_format), weights.layers)
            )
        model = _ModelStruct(
            config.num_hidden_layers, config.hidden_size, config.num_attention_heads,
            config.num_key_value_heads, config.head_dim, config.intermediate_size,
            config.rms_norm_eps,
            self._embedding.data_ptr(),
            (_LayerStruct * len(layers))(*layers),
            self._float_pointer(weights.norm),
            head.result(),
        )  # fmt: skip
        handle = kernel.functions.open_decoder(ctypes.byref(model), threads)
        if not handle:
            raise MemoryError
        self._handle = c_void_p(handle)
        self._keepalive.append(model)
        self.close = weakref.finalize(self, kernel.functions.close_decoder, self._handle)
        self.close.atexit = False  # a thread may still be decoding when the program ends

    def _pack(self, weight_format: WeightFormat, *matrices: Linear) -> Any:
        packed = self._kernel.pack(matrices, weight_format)
        self._keepalive.append(packed)
        return packed.as_struct()

    def _float_pointer(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        floats = tensor.float().contiguous()
        self._keepalive.append(floats)
        return floats.data_ptr()

    def _pack_layer(self, layer: LayerWeights[Linear], weight_format: WeightFormat | None) -> Any:
        def format_of(*matrices: Linear) -> WeightFormat:
            matrix_format = weight_format or choose_format(matrices)
            self.formats.add(matrix_format)
            return matrix_format

        mlp_format = format_of(layer.gate_proj, layer.up_proj)  # one task reads rows of both
        qkv = (layer.q_proj, layer.k_proj, layer.v_proj)
        return _LayerStruct(
            self._pack(format_of(*qkv), *qkv),
            self._pack(format_of(layer.o_proj), layer.o_proj),
            self._pack(mlp_format, layer.gate_proj),
            self._pack(mlp_format, layer.up_proj),
            self._pack(format_of(layer.down_proj), layer.down_proj),
            self._float_pointer(layer.pre_attention_norm),
            self._float_pointer(layer.pre_mlp_norm),
            self._float_pointer(layer.q_norm),
            self._float_pointer(layer.k_norm),
        )

    def pack_adapter(self, lora: LoraWeights) -> PackedAdapter:
        """Pack a LoRA adapter for the kernel."""
        return PackedAdapter(self._config, lora, self._kernel.dtype)

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
        if self._kernel.functions.decode(
            self._handle,
            structs,
            len(sequences),
            (c_int64 * len(tokens))(*tokens),
            rope.data_ptr(),
            logits.data_ptr(),
        ):
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


_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""In the order of the kernel."""


class _LoraPairStruct(ctypes.Structure):
    """A LoRA pair and the rows of the packed matrix that it changes."""

    _fields_ = (
        ("lora_a", c_void_p),
        ("lora_b", c_void_p),
        *((name, c_int64) for name in ("rank", "a_stride", "b_stride", "first_row", "rows")),
        ("scale", c_float),
    )


class PackedAdapter:
    """A LoRA adapter in the kernel's layout.

    Args:
        config: of the model.
        lora: the adapter, of the same model.
        dtype: of the kernel.
    """

    def __init__(self, config: ModelConfig, lora: LoraWeights, dtype: torch.dtype) -> None:
        self._keepalive: list[Tensor] = []
        """Memory that the kernel points to."""
        q_rows = config.num_attention_heads * config.head_dim
        kv_rows = config.num_key_value_heads * config.head_dim
        first_rows = {"k_proj": q_rows, "v_proj": q_rows + kv_rows}
        packed = [
            self._pack(layer.get(name), first_rows.get(name, 0), dtype)
            for layer in lora
            for name in _LORA_TARGETS
        ]
        self.structs = (_LoraPairStruct * len(packed))(*packed)
        """(layers, targets), valid while this object lives."""

    def _pack(self, pair: LoraPair | None, first_row: int, dtype: torch.dtype) -> _LoraPairStruct:
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
            first_row,
            rows,
            pair.scale,
        )
