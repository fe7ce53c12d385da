"""Decode tokens with the compiled C kernel, called by ctypes."""

from __future__ import annotations

import ctypes
import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import pad

from chatlm.engines.native.compiler import KernelUnavailable
from chatlm.engines.native.forward import scale_logits
from chatlm.engines.native.kernel import Kernel, PackedMatrix, PackedMatrixStruct
from chatlm.engines.native.kv_cache import (
    LANES,
    KVBuffer,
    KVCache,
    SequenceInput,
    kv_layer_shape,
)
from chatlm.engines.native.lora import LoraPair, LoraWeights
from chatlm.engines.native.model_config import LayerConfig, ModelConfig
from chatlm.engines.native.moe import MoeConfig
from chatlm.engines.native.packed_experts import PackedExperts, check_experts, pack_experts
from chatlm.engines.native.products import Activation, GroupMatMul
from chatlm.engines.native.program import GATES, Program
from chatlm.engines.native.quantization import WeightFormat, choose_format
from chatlm.engines.native.rope import RopeTables
from chatlm.engines.native.stored_matrix import ELEMENT_TYPES, StoredMatrix, stored_tensor
from chatlm.engines.native.weights import (
    ComputedWeights,
    LayerInputWeights,
    LayerWeights,
    ModelWeights,
    MoeWeights,
    StoredWeights,
    map_layer,
)

_QUANTIZED = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_1"}
"""The kernel's formats for matrices that are not packed as they are stored."""

_PRODUCT_TOLERANCE = 0.03
"""Relative error of a product in 16 bits with weights in 8; it is about 0.005."""


class _KVLayerStruct(ctypes.Structure):
    _fields_ = tuple((name, c_void_p) for name in ("keys", "values", "key_scales", "value_scales"))


class _SequenceInputStruct(ctypes.Structure):
    _fields_ = (
        ("kv_layers", c_void_p),
        *((name, c_int64) for name in ("capacity", "length", "token_count")),
        *((name, c_void_p) for name in ("lora", "ropes", "state", "log")),
        *((name, c_int64) for name in ("accepted", "log_stride")),
    )


class _Handle:
    """An open decoder of the kernel, closed with its last user; one call at a time.

    Args:
        kernel: the kernel.
        program: the model.
        threads: at least one.
    """

    def __init__(self, kernel: Kernel, program: Program, threads: int) -> None:
        handle = kernel.functions.open_decoder(program.pointer, threads)
        if not handle:
            raise MemoryError
        self.functions = kernel.functions
        self.pointer = c_void_p(handle)
        self.lock = Lock()
        self._program = program  # which the kernel reads
        self.close = weakref.finalize(self, kernel.functions.close_decoder, self.pointer)
        self.close.atexit = False  # a thread may still be decoding when the program ends


@dataclass(frozen=True)
class PackedLinear(GroupMatMul):
    """A packed matrix that multiplies whole blocks of a prompt, in float32.

    Raises:
        MemoryError: when it multiplies, and there is not enough memory.
    """

    matrix: PackedMatrix
    handle: _Handle

    def multiply_group(self, group: Sequence[PackedLinear], x: Tensor) -> list[Tensor]:
        """Multiply several matrices, see `GroupMatMul`; the vectors are converted once."""
        if any(each.matrix.column_order is not None for each in group):
            return [each._multiply([each], each._in_order(x), None, None)[0] for each in group]
        return self._multiply(group, x, None, None)

    def multiply_gated(self, activation: Activation, gate: Tensor, up: Tensor) -> Tensor:
        """Multiply with `activation(gate) * up`, see `GroupMatMul`."""
        gate, up = self._in_order(gate), self._in_order(up)
        return self._multiply([self], gate, up, activation)[0]

    def _in_order(self, x: Tensor) -> Tensor:
        order = self.matrix.column_order
        return x if order is None else torch.empty_like(x).index_copy_(1, order, x)

    def _multiply(
        self,
        group: Sequence[PackedLinear],
        x: Tensor,
        up: Tensor | None,
        activation: Activation | None,
    ) -> list[Tensor]:
        x = x.float().contiguous()
        up = None if up is None else up.float().contiguous()
        is_wrong = x.dim() != 2 or any(x.shape[1] != each.matrix.columns for each in group)
        if is_wrong or (up is not None and up.shape != x.shape):
            raise ValueError(f"vectors of the shape {tuple(x.shape)}")
        products = [torch.empty(len(x), each.matrix.rows) for each in group]
        matrices = (PackedMatrixStruct * len(group))(*(each.matrix.as_struct() for each in group))
        outputs = (c_void_p * len(group))(*(product.data_ptr() for product in products))
        with self.handle.lock:
            status = self.handle.functions.multiply_matrices(
                self.handle.pointer, matrices, len(group), x.data_ptr(),
                None if up is None else up.data_ptr(), GATES.index(activation), x.shape[1], len(x),
                outputs,
            )  # fmt: skip
        if status:
            raise MemoryError
        return products


@dataclass(frozen=True)
class PackedMixture:
    """Packed experts that are mixed for a whole block of a prompt, in float32."""

    experts: PackedExperts
    handle: _Handle

    def __call__(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Mix, see `Experts`.

        Raises:
            MemoryError: there is not enough memory.
        """
        x, chosen = x.float().contiguous(), experts.flatten()
        config, down = self.experts.config, self.experts.matrices["down_proj"][0]
        if x.dim() != 2 or x.shape[1] != down.rows or len(experts) != len(x):
            raise ValueError(f"vectors of the shape {tuple(x.shape)}")
        order = chosen.argsort(stable=True)
        slots = chosen.bincount(minlength=config.num_experts)
        tokens, shares = order // experts.shape[1], weights.flatten()[order].float()
        y = torch.empty(x.shape, dtype=torch.float)
        with self.handle.lock:
            status = self.handle.functions.multiply_experts(
                self.handle.pointer, ctypes.byref(self.experts.struct), x.data_ptr(), x.shape[1],
                len(x), slots.data_ptr(), tokens.data_ptr(), shares.data_ptr(), y.data_ptr(),
            )  # fmt: skip
        if status:
            raise MemoryError
        return y


@dataclass(frozen=True)
class PackedHead:
    """The output matrix, multiplied with one vector as for a token that is decoded."""

    handle: _Handle
    vocab_size: int

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply with one vector, see `MatMul`; the results are float32."""
        if len(x) != 1:
            raise ValueError(f"{len(x)} vectors instead of one")
        x = x.float().contiguous()
        logits = torch.empty(1, self.vocab_size)
        with self.handle.lock:
            self.handle.functions.multiply_lm_head(
                self.handle.pointer, x.data_ptr(), logits.data_ptr()
            )
        return logits


@dataclass(frozen=True)
class StoredEmbedding:
    """An embedding whose rows are read from the file when they are needed, in float32."""

    matrix: StoredMatrix
    kernel: Kernel

    def __call__(self, ids: Tensor) -> Tensor:
        """Look up, see `Embed`."""
        return self.kernel.read_rows(self.matrix, ids)


class CDecoder:
    """A decoder with packed weights and the kernel's threads.

    Args:
        kernel: compiled for a dtype, that of the KV cache.
        config: of the model.
        weights: of the model.
        weight_format: of the packed matrices. None for `choose_format`, except that matrices
            that are quantized already stay as they are; with int4 the output matrix is int8.
        threads: at least one.
        head: packed output matrix of a model that this one shares it with; None to pack its own.

    Raises:
        Unsupported: a number format is unknown, or a matrix is damaged.
        MemoryError: there is not enough memory for them.
    """

    def __init__(
        self,
        kernel: Kernel,
        config: ModelConfig,
        weights: StoredWeights,
        weight_format: WeightFormat | None,
        threads: int,
        head: PackedMatrix | None = None,
    ) -> None:
        if threads < 1:
            raise ValueError("no thread")
        for layer in config.layers:  # before anything is packed in vain
            if isinstance(layer.mlp, MoeConfig):
                check_experts(layer.mlp)
        self._config, self.kernel, self.weight_format = config, kernel, weight_format
        self.formats: set[str] = set()
        """Formats of the layers' matrices."""
        with ThreadPoolExecutor(threads) as pool:
            own_head = pool.submit(lambda: head or self._pack_head(weights.lm_head, weight_format))
            layers = list(
                pool.map(
                    lambda config, layer: self._pack_layer(config, layer, weight_format),
                    config.layers,
                    weights.layers,
                )
            )
            inputs = self._pack_inputs(weights.layer_inputs, weight_format)
            self.head = own_head.result()
            """The packed output matrix."""
        program = Program(
            config,
            ModelWeights(weights.embed_tokens, tuple(layers), weights.norm, self.head, inputs),
        )
        self._lora_targets = [
            LoraTarget(layer, name, layers[layer].matrices[name].column_order)
            for layer, name in program.lora_targets
        ]
        self._handle = _Handle(kernel, program, threads)
        self._kv_structs: WeakKeyDictionary[KVBuffer, Any] = WeakKeyDictionary()
        self._rope_structs: WeakKeyDictionary[RopeTables, dict[int, Any]] = WeakKeyDictionary()
        self.weights = self._prompt_weights(weights, layers, inputs)
        """The packed weights, for prompts."""
        self.close = self._handle.close

    def pack_linear(self, matrix: StoredMatrix) -> PackedLinear:
        """Pack a further matrix, as those of the layers, and return what multiplies with it."""
        packed = self.kernel.pack(matrix, _choose_format([matrix], self.weight_format))
        return PackedLinear(packed, self._handle)

    def _pack(self, matrix: StoredMatrix, weight_format: str) -> PackedMatrix:
        packed_format = matrix.type if weight_format == "stored" else _QUANTIZED[weight_format]
        return self.kernel.pack(matrix, packed_format)

    def _pack_head(self, matrix: StoredMatrix, weight_format: WeightFormat | None) -> PackedMatrix:
        if weight_format is None:
            return self._pack(matrix, "stored" if _is_quantized(matrix) else "int8")
        return self._pack(matrix, "int8" if weight_format == "int4" else weight_format)

    def _pack_layer(
        self,
        config: LayerConfig,
        layer: LayerWeights[StoredMatrix],
        weight_format: WeightFormat | None,
    ) -> LayerWeights[PackedMatrix]:
        def choose(matrices: Sequence[StoredMatrix]) -> str:
            return _choose_format(matrices, weight_format)

        def pack(matrix: StoredMatrix) -> PackedMatrix:
            return self.kernel.pack(matrix, choose([matrix]))

        def pack_mixture(moe: MoeWeights) -> MoeWeights:
            if not isinstance(config.mlp, MoeConfig):
                raise TypeError("the layer has no experts")
            packed = pack_experts(self.kernel, config.mlp, moe, choose)
            self.formats |= packed.formats
            return dataclasses.replace(moe, experts=packed)

        packed = map_layer(layer, pack, convert_moe=pack_mixture)
        self.formats |= {matrix.format for matrix in packed.matrices.values()}
        return packed

    def _pack_inputs(
        self,
        inputs: LayerInputWeights[StoredMatrix, StoredMatrix] | None,
        weight_format: WeightFormat | None,
    ) -> LayerInputWeights[PackedMatrix, StoredMatrix] | None:
        if inputs is None:
            return None
        chosen = _choose_format([inputs.projection], weight_format)
        projection = self.kernel.pack(inputs.projection, chosen)
        return LayerInputWeights(inputs.table, projection, inputs.norm)

    def _prompt_weights(
        self,
        stored: StoredWeights,
        layers: Sequence[LayerWeights[PackedMatrix]],
        inputs: LayerInputWeights[PackedMatrix, StoredMatrix] | None,
    ) -> ComputedWeights:
        def linear(matrix: PackedMatrix) -> PackedLinear:
            return PackedLinear(matrix, self._handle)

        def mixture(moe: MoeWeights) -> MoeWeights:
            return dataclasses.replace(moe, experts=PackedMixture(moe.experts, self._handle))

        return ModelWeights(
            embed_tokens=StoredEmbedding(stored.embed_tokens, self.kernel),
            layers=tuple(map_layer(layer, linear, convert_moe=mixture) for layer in layers),
            norm=stored.norm,
            lm_head=PackedHead(self._handle, self._config.vocab_size),
            layer_inputs=None
            if inputs is None
            else LayerInputWeights(
                StoredEmbedding(inputs.table, self.kernel), linear(inputs.projection), inputs.norm
            ),
        )

    def check_products(self) -> None:
        """Multiply a small matrix with vectors of a prompt, and compare with torch.

        A library may come from another machine, and what it uses here, such as AMX, may never
        have been tried.

        Raises:
            KernelUnavailable: a product is wrong.
        """
        random = torch.Generator().manual_seed(1)
        weight = torch.randn(64, 128, generator=random).bfloat16()
        x = torch.randn(40, 128, generator=random)
        expected = x @ weight.float().T
        stored = StoredMatrix(weight.view(torch.uint8), "BF16", weight.shape[1], mapped=())
        for packed_format in ("BF16", "Q8_0"):
            matrix = self.kernel.pack(stored, packed_format)
            y = PackedLinear(matrix, self._handle)(x)
            if not float((y - expected).norm()) <= _PRODUCT_TOLERANCE * float(expected.norm()):
                raise KernelUnavailable("the compiled kernel multiplies wrongly on this processor")

    def pack_adapter(self, lora: LoraWeights) -> PackedAdapter:
        """Pack a LoRA adapter for the kernel."""
        return PackedAdapter(lora, self._lora_targets, self.kernel.dtype)

    def prompt_matrix(self, matrix: Tensor) -> PackedLinear:
        """Pack a matrix of an adapter in the kernel's dtype."""
        stored = stored_tensor(matrix.to(self.kernel.dtype).contiguous())
        # no memory of a file: it is not to be given back
        packed = self.kernel.pack(dataclasses.replace(stored, mapped=()), stored.type)
        return PackedLinear(packed, self._handle)

    @property
    def max_step_tokens(self) -> int:
        """Limit of tokens per decode step."""
        return int(self.kernel.functions.max_step_tokens())

    @property
    def kv_dtype(self) -> torch.dtype:
        """The dtype of values in KV caches."""
        return self.kernel.dtype

    def decode(
        self,
        sequences: Sequence[SequenceInput],
        ropes: RopeTables,
        *,
        inputs: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Decode tokens of several sequences, bit for bit as one token per call.

        Args:
            sequences: see `TokenDecoder`.
            ropes: see `TokenDecoder`.
            inputs: what enters the first layer in place of the embeddings: (tokens, hidden_size),
                float32.
            hidden: filled with what leaves the last layer, before the norm; as `inputs`.

        Raises:
            ValueError: a cache, table or tensor is of another model, or there are too many tokens.
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
        shape = (len(tokens), self._config.hidden_size)
        for rows in (inputs, hidden):
            if rows is not None and (
                rows.shape != shape or rows.dtype != torch.float32 or not rows.is_contiguous()
            ):
                raise ValueError(f"vectors of the shape {tuple(rows.shape)}, {rows.dtype}")
        structs = (_SequenceInputStruct * len(sequences))(
            *(self._sequence_struct(sequence, ropes) for sequence in sequences)
        )
        logits = torch.empty(len(tokens), self._config.vocab_size)
        with self._handle.lock:
            status = self.kernel.functions.decode(
                self._handle.pointer,
                structs,
                len(sequences),
                (c_int64 * len(tokens))(*tokens),
                None if inputs is None else inputs.data_ptr(),
                logits.data_ptr(),
                None if hidden is None else hidden.data_ptr(),
            )
        if status:
            raise MemoryError
        for sequence in sequences:
            sequence.kv_cache.recurrent.length = sequence.kv_cache.length + 1
            sequence.kv_cache.length += len(sequence.tokens)
        return scale_logits(self._config, logits)

    def prompt_attention(
        self,
        kv_cache: KVCache,
        ropes: RopeTables,
        length: int,
        start: int,
        layer: int,
        queries: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
    ) -> Tensor:
        """Attend, see `PromptAttention`; the result is the same however a prompt is divided.

        Raises:
            ValueError: the cache, the tables or the vectors are of another model.
        """
        config, tokens = self._config.attention_layers[layer], len(queries)
        kv_width = config.num_key_value_heads * config.head_dim
        widths = [config.num_attention_heads * config.head_dim, kv_width, kv_width]
        inputs = [
            None if each is None else each.float().contiguous() for each in (queries, keys, values)
        ]
        if any(
            each is not None and each.shape != (tokens, width)
            for each, width in zip(inputs, widths, strict=True)
        ) or (keys is None or values is None) != (config.shares_kv_of is not None):
            raise ValueError("the vectors are of another model")
        struct = _SequenceInputStruct(**self._cache_fields(kv_cache, ropes, tokens, length, start))
        out = torch.empty(tokens, widths[0])
        with self._handle.lock:
            self.kernel.functions.attend_prompt(
                self._handle.pointer, layer, ctypes.byref(struct),
                *(None if each is None else each.data_ptr() for each in (*inputs, out)),
            )  # fmt: skip
        return out

    def settle(self, sequence: SequenceInput) -> None:
        """Read the newest tokens of a sequence into its recurrent state, where they are not yet."""
        kv_cache = sequence.kv_cache
        if kv_cache.recurrent.length == kv_cache.length or not kv_cache.recurrent.shapes:
            return
        struct = _SequenceInputStruct(token_count=0, **self._state_fields(kv_cache, 0))
        with self._handle.lock:
            self.kernel.functions.settle(self._handle.pointer, ctypes.byref(struct))
        kv_cache.recurrent.length = kv_cache.length

    def _state_fields(self, kv_cache: KVCache, count: int) -> Mapping[str, Any]:
        """Return the fields of a sequence's recurrent state, before `count` new tokens."""
        state = kv_cache.recurrent
        if state.shapes != self._config.state_shapes:
            raise ValueError("the recurrent state is of another model")
        if not state.shapes:
            return {}
        if count > 1:
            state.open_log(self.max_step_tokens - 1)
        log = state.log
        return {
            "state": state.buffer.data_ptr(),
            "log": None if log is None else log.data_ptr(),
            "accepted": kv_cache.length - state.length,
            "log_stride": 0 if log is None else log.stride(0),
        }

    def _sequence_struct(self, sequence: SequenceInput, ropes: RopeTables) -> Any:
        kv_cache, count = sequence.kv_cache, len(sequence.tokens)
        kv_cache.reserve(kv_cache.length + count)
        adapter = sequence.adapter
        return _SequenceInputStruct(
            lora=None if adapter is None else ctypes.addressof(adapter.structs),
            **self._cache_fields(kv_cache, ropes, count, kv_cache.length + count, kv_cache.length),
            **self._state_fields(kv_cache, count),
        )

    def _cache_fields(
        self, kv_cache: KVCache, ropes: RopeTables, count: int, length: int, start: int
    ) -> Mapping[str, Any]:
        """Return the fields of a sequence's KV cache, before `count` tokens.

        Args:
            kv_cache: with room for them.
            ropes: of the model.
            count: of tokens.
            length: of the text, see `RopeTables.rows`.
            start: position of the first of the tokens.
        """
        buffer = kv_cache.buffer
        layers = self._kv_structs.get(buffer)
        if layers is None:
            layers = self._kv_structs[buffer] = self._kv_layer_structs(kv_cache)
        if ropes.positions < start + count or (
            [table.shape[1] for table in ropes.tables]
            != [rope.rotary_dim for rope in self._config.ropes]
        ):
            raise ValueError("the RoPE table is of another model")
        if start + count > buffer.capacity:
            raise ValueError("the KV cache is too short")
        return {
            "kv_layers": ctypes.addressof(layers),
            "capacity": buffer.capacity,
            "length": start,
            "token_count": count,
            "ropes": self._rope_addresses(ropes, length),
        }

    def _rope_addresses(self, ropes: RopeTables, length: int) -> int:
        """Return the address of those of the tables for a text of some tokens."""
        tables = ropes.for_length(length)
        known = self._rope_structs.get(ropes)
        if known is None:
            known = self._rope_structs[ropes] = {}
        key = id(tables)
        if key not in known:
            known[key] = (c_void_p * max(len(tables), 1))(*(each.data_ptr() for each in tables))
        return ctypes.addressof(known[key])

    def _kv_layer_structs(self, kv_cache: KVCache) -> Any:
        buffer, config = kv_cache.buffer, self._config
        shapes = [
            kv_layer_shape(each, buffer.capacity, kv_cache.kv_format) for each in config.kv_layers
        ]
        is_own = buffer.dtype == self.kernel.dtype
        if not is_own or [each.kv.shape for each in buffer.layers] != shapes:
            raise ValueError("the KV cache is of another model")
        structs = (_KVLayerStruct * len(buffer.layers))()
        for struct, layer in zip(structs, buffer.layers, strict=True):
            struct.keys, struct.values = (each.data_ptr() for each in layer.kv)
            if layer.scales is not None:
                struct.key_scales, struct.value_scales = (each.data_ptr() for each in layer.scales)
        return structs


class _LoraPairStruct(ctypes.Structure):
    """A LoRA pair in the kernel's layout."""

    _fields_ = (
        ("lora_a", c_void_p),
        ("lora_b", c_void_p),
        *((name, c_int64) for name in ("rank", "a_stride", "b_stride", "rows")),
        ("scale", c_float),
    )


@dataclass(frozen=True)
class LoraTarget:
    """A matrix that an adapter may change."""

    layer: int
    name: str
    column_order: Tensor | None
    """See `PackedMatrix`."""


class PackedAdapter:
    """A LoRA adapter in the kernel's layout.

    Args:
        lora: the adapter, of the model.
        targets: the matrices that it may change, in the kernel's order.
        dtype: of the kernel.
    """

    def __init__(
        self, lora: LoraWeights, targets: Sequence[LoraTarget], dtype: torch.dtype
    ) -> None:
        self._keepalive: list[Tensor] = []
        """Memory that the kernel points to."""
        packed = [
            self._pack(lora[target.layer].get(target.name), target.column_order, dtype)
            for target in targets
        ]
        self.structs = (_LoraPairStruct * len(packed))(*packed)
        """(targets,), valid while this object lives."""

    def _pack(
        self, pair: LoraPair | None, column_order: Tensor | None, dtype: torch.dtype
    ) -> _LoraPairStruct:
        if pair is None:
            return _LoraPairStruct()
        rows, rank = pair.lora_b.shape
        lora_a = pair.lora_a.to(dtype)
        if column_order is not None:
            lora_a = torch.empty_like(lora_a).index_copy_(1, column_order, lora_a)
        lora_a = pad(lora_a, (0, -lora_a.shape[1] % LANES))
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


def _choose_format(matrices: Sequence[StoredMatrix], weight_format: WeightFormat | None) -> str:
    """Return the kernel's format for some matrices that are packed alike."""
    if weight_format is not None and weight_format != "stored":
        return _QUANTIZED[weight_format]
    if weight_format == "stored" or _is_quantized(matrices[0]):
        return matrices[0].type
    return _QUANTIZED[choose_format(matrices)]


def _is_quantized(matrix: StoredMatrix) -> bool:
    return matrix.type not in ELEMENT_TYPES.values()
