"""Build the C kernel's program for a model: the steps of its layers, see csrc/model.h."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.gated_delta import GatedDeltaConfig
from chatlm.engines.native.kernel import (
    PackedMatrix,
    PackedMatrixStruct,
    StoredMatrixStruct,
    as_stored_struct,
)
from chatlm.engines.native.layer_inputs import SHARE, LayerInputConfig
from chatlm.engines.native.mamba import MambaConfig
from chatlm.engines.native.mlp import DenseMlpConfig
from chatlm.engines.native.model_config import LayerConfig, ModelConfig
from chatlm.engines.native.moe import SHARED_PREFIX, MoeConfig
from chatlm.engines.native.packed_experts import MoeStruct, PackedExperts
from chatlm.engines.native.recurrent_state import StateShape
from chatlm.engines.native.short_conv import ShortConvConfig
from chatlm.engines.native.stored_matrix import StoredMatrix
from chatlm.engines.native.weights import LayerInputWeights, LayerWeights, ModelWeights

MAX_STEP_MATRICES = 4

NO_LORA = -1
"""In place of a matrix's index, where no adapter may change it."""

MAX_CONV_KERNEL = 8

_STEP_MATMUL, _STEP_ATTENTION, _STEP_CONV, _STEP_MEMORY = range(4)
_STEP_EXPERTS_GATE_UP, _STEP_EXPERTS_DOWN = range(4, 6)
_INPUTS = ("residual", "buffer", "attention")
_OUTPUTS = ("buffer", "residual", "logits")
GATES = (None, "silu", "gelu_tanh")
"""Activations by the kernel's numbers."""


class _StepStruct(ctypes.Structure):
    _fields_ = (("kind", c_int64), ("detail", c_void_p))


class _AttentionStruct(ctypes.Structure):
    _fields_ = (
        *(
            (name, c_int64)
            for name in (
                "num_attention_heads", "num_key_value_heads", "head_dim", "number", "kv_layer",
                "window", "qkv_buffer", "keys", "values", "gate", "rope", "rotary_dim",
                "interleaved",
            )
        ),
        ("scale", c_float),
        ("softcap", c_float),
        *((name, c_void_p) for name in ("q_norm", "k_norm", "v_norm", "sinks")),
    )  # fmt: skip


class _StepMatrixStruct(ctypes.Structure):
    _fields_ = (("matrix", PackedMatrixStruct), ("lora", c_int64))


class _NormSpanStruct(ctypes.Structure):
    _fields_ = (
        ("weight", c_void_p),
        *((name, c_int64) for name in ("offset", "size", "count")),
        ("epsilon", c_float),
    )


class _MatmulStruct(ctypes.Structure):
    _fields_ = (
        ("matrices", _StepMatrixStruct * MAX_STEP_MATRICES),
        *((name, c_int64) for name in ("matrix_count", "input", "input_buffer", "input_size")),
        ("norm", c_void_p),
        ("attention", c_void_p),
        *((name, c_int64) for name in ("output", "output_buffer", "gate", "up_buffer")),
        ("up_offset", c_int64),
        ("norms", _NormSpanStruct * 2),
        *((name, c_int64) for name in ("norm_count", "sum_buffer", "sum_size")),
        *((name, c_float) for name in ("multiplier", "sum_scale")),
        ("routes", c_void_p),
        *((name, c_int64) for name in ("share_buffer", "share_offset")),
    )


class _ExpertsStruct(ctypes.Structure):
    _fields_ = (
        ("moe", MoeStruct),
        ("norm", c_void_p),
        ("inner_buffer", c_int64),
        ("up_buffer", c_int64),
        ("multiplier", c_float),
    )


class _ConvStruct(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("channels", "kernel_size")),
        *((name, c_void_p) for name in ("weight", "bias")),
        ("activate", c_int64),
        *(
            (name, c_int64)
            for name in (
                "input_buffer", "output_buffer", "input", "input_gate", "output_gate", "output",
                "state", "log",
            )
        ),
    )  # fmt: skip


class _MemoryStruct(ctypes.Structure):
    _fields_ = (
        *(
            (name, c_int64)
            for name in (
                "heads", "key_dim", "value_dim", "heads_per_key", "delta_rule", "queries", "keys",
                "values", "decay_input", "beta_input", "gate",
            )
        ),
        *(
            (name, c_void_p)
            for name in ("decay_rate", "decay_bias", "skip", "head_norm", "places")
        ),
        ("epsilon", c_float),
        *((name, c_int64) for name in ("input_buffer", "output_buffer", "state", "log")),
        ("norm", c_void_p),
        ("norm_groups", c_int64),
    )  # fmt: skip


class _ModelStruct(ctypes.Structure):
    _fields_ = (
        ("hidden_size", c_int64),
        ("rms_norm_eps", c_float),
        ("embedding_multiplier", c_float),
        ("embed_tokens", StoredMatrixStruct),
        ("input_table", StoredMatrixStruct),
        ("input_buffer", c_int64),
        ("input_multiplier", c_float),
        ("steps", c_void_p),
        ("step_count", c_int64),
        ("buffer_sizes", c_void_p),
        *((name, c_int64) for name in ("buffer_count", "lora_count")),
    )


@dataclass(frozen=True)
class NormSpan:
    """Values of an output vector that are normalized together."""

    weight: Tensor
    """(size,)"""
    offset: int
    size: int
    count: int = 1
    """Such spans one after the other."""
    epsilon: float | None = None
    """None for that of the model."""


class Program:
    """A model as the kernel runs it; the kernel reads it while it is used.

    Args:
        config: of the model.
        weights: of the model, with packed matrices.
    """

    def __init__(
        self, config: ModelConfig, weights: ModelWeights[PackedMatrix, StoredMatrix]
    ) -> None:
        self._config = config
        self._keepalive: list[Any] = [weights]
        """Memory that the program points to."""
        self._steps: list[_StepStruct] = []
        self._buffers: dict[tuple[str, int], int] = {}
        self.lora_targets: list[tuple[int, str]] = []
        """Layer and name of each matrix that an adapter may change, in the kernel's order."""
        self._buffer("residual", config.hidden_size)
        self._attention_count = self._state_offset = self._log_offset = 0
        inputs = weights.layer_inputs
        self._input_buffer = -1 if inputs is None else self._add_layer_inputs(inputs)
        for number, (layer, own) in enumerate(zip(config.layers, weights.layers, strict=True)):
            self._add_layer(number, layer, own)
        self.add_matmul(
            [(weights.lm_head, NO_LORA)], config.hidden_size, norm=weights.norm, output="logits"
        )
        self._struct = _ModelStruct(
            config.hidden_size,
            config.rms_norm_eps,
            config.embedding_multiplier,
            as_stored_struct(weights.embed_tokens),
            StoredMatrixStruct() if inputs is None else as_stored_struct(inputs.table),
            self._input_buffer,
            0.0 if config.layer_inputs is None else config.layer_inputs.size**0.5 * SHARE,
            self._array(_StepStruct, self._steps),
            len(self._steps),
            self._array(c_int64, [size for _, size in self._buffers]),
            len(self._buffers),
            len(self.lora_targets),
        )

    @property
    def pointer(self) -> Any:
        """The kernel's `Model`."""
        return ctypes.byref(self._struct)

    def _add_layer(
        self, number: int, layer: LayerConfig, weights: LayerWeights[PackedMatrix]
    ) -> None:
        match layer.mixer:
            case AttentionConfig():
                self._add_attention(number, layer.mixer, weights)
            case ShortConvConfig():
                self._add_short_conv(number, layer.mixer, weights)
            case GatedDeltaConfig():
                self._add_gated_delta_net(number, layer.mixer, weights)
            case MambaConfig():
                self._add_mamba(number, layer.mixer, weights)
        if isinstance(layer.mlp, MoeConfig):
            self._add_moe(number, layer.mlp, weights)
        else:
            self._add_dense_mlp(number, layer.mlp, weights)
        if layer.inputs is not None:
            self._add_layer_input(number, layer.inputs, weights)
        if layer.is_scaled:
            if self._last_matmul.sum_buffer < 0:
                raise Unsupported("the C kernel scales a layer only after a norm")
            self._last_matmul.sum_scale = float(weights.vectors["layer_scale"])

    def _add_layer_inputs(self, weights: LayerInputWeights[PackedMatrix, StoredMatrix]) -> int:
        """Add the product that the inputs of all layers are made of; return their buffer, which
        has the rows of the table already."""
        hidden_size, (size,) = self._config.hidden_size, weights.norm.shape
        whole = weights.projection.rows
        inputs = self._buffer("layer inputs", whole)
        # what is normalized is smaller by the root of hidden_size, and so is epsilon
        epsilon = self._config.rms_norm_eps * hidden_size
        self.add_matmul(
            [(weights.projection, NO_LORA)],
            hidden_size,
            output_buffer=self._buffer("projected inputs", whole),
            norms=[NormSpan(weights.norm * SHARE, 0, size, whole // size, epsilon)],
            sum_buffer=inputs,
            multiplier=1.0,
        )
        return inputs

    def _add_layer_input(
        self, number: int, config: LayerInputConfig, weights: LayerWeights[PackedMatrix]
    ) -> None:
        gate = self._buffer("input gate", config.size)
        self.add_matmul(
            self._targets(number, weights, ("input_gate",)),
            self._config.hidden_size,
            output_buffer=gate,
            gate=config.activation,
            up_buffer=self._input_buffer,
            up_offset=number * config.size,
        )
        self.add_output(
            self._targets(number, weights, ("input_proj",)),
            config.size,
            weights.vectors["post_input_norm"],
            input_buffer=gate,
        )

    def _add_attention(
        self, number: int, config: AttentionConfig, weights: LayerWeights[PackedMatrix]
    ) -> None:
        vectors, hidden_size = weights.vectors, self._config.hidden_size
        names = config.projections
        sizes = [weights.matrices[name].rows for name in names]
        offsets = dict(zip(names, accumulate(sizes, initial=0), strict=False))
        keys = offsets.get("k_proj", -1)
        qkv = self._buffer("qkv", sum(sizes))
        spans: list[NormSpan] = []
        if config.qk_norm == "projection":
            spans = [
                NormSpan(vectors["q_norm"], 0, sizes[0]),
                NormSpan(vectors["k_norm"], sizes[0], sizes[1]),
            ]
        self.add_matmul(
            self._targets(number, weights, names),
            hidden_size,
            norm=vectors.get("pre_mixer_norm"),
            output_buffer=qkv,
            norms=spans,
        )
        per_head = config.qk_norm == "head"
        attention = _AttentionStruct(
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            number=self._attention_count,
            kv_layer=self._config.kv_indices[self._attention_count],
            window=config.window or 0,
            qkv_buffer=qkv,
            keys=keys,
            values=keys if config.values_are_keys else offsets.get("v_proj", -1),
            gate=offsets.get("output_gate", -1),
            rope=-1 if config.rope is None else self._config.ropes.index(config.rope),
            rotary_dim=0 if config.rope is None else config.rope.rotary_dim,
            interleaved=config.rope is not None and config.rope.interleaved,
            scale=config.scale,
            softcap=config.softcap or 0.0,
            q_norm=self.floats(vectors["q_norm"] if per_head else None),
            k_norm=self.floats(vectors.get("k_norm") if per_head else None),
            v_norm=self.floats(torch.ones(config.head_dim) if config.value_norm else None),
            sinks=self.floats(vectors.get("sinks")),
        )
        self._attention_count += 1
        self.add_step(_STEP_ATTENTION, attention)
        self.add_output(
            self._targets(number, weights, ("o_proj",)),
            config.num_attention_heads * config.head_dim,
            vectors.get("post_mixer_norm"),
            attention=attention,
        )

    def _add_short_conv(
        self, number: int, config: ShortConvConfig, weights: LayerWeights[PackedMatrix]
    ) -> None:
        channels = config.channels
        mixed = self._add_projections(number, weights, ("in_proj",))
        out = self._buffer("recurrent output", channels)
        self._add_conv(
            config.state_shape, weights.vectors, mixed, output_buffer=out, input=2 * channels,
            input_gate=0, output_gate=channels, activate=False,
        )  # fmt: skip
        self._add_recurrent_output(number, config.state_shape, weights, out)

    def _add_gated_delta_net(
        self, number: int, config: GatedDeltaConfig, weights: LayerWeights[PackedMatrix]
    ) -> None:
        names = ("in_proj_qkv", "in_proj_a", "in_proj_b", "in_proj_z")
        mixed = self._add_projections(number, weights, names)
        self._add_conv(config.state_shape, weights.vectors, mixed, output_buffer=mixed)
        first = config.conv_channels
        out = self._add_memory(
            config.state_shape,
            weights,
            mixed,
            heads_per_key=config.num_value_heads // config.num_key_heads,
            delta_rule=1,
            queries=0,
            keys=config.key_size,
            values=2 * config.key_size,
            decay_input=first,
            beta_input=first + config.num_value_heads,
            gate=first + 2 * config.num_value_heads,
            head_norm=self.floats(weights.vectors["norm_weight"]),
        )
        self._add_recurrent_output(number, config.state_shape, weights, out)

    def _add_mamba(
        self, number: int, config: MambaConfig, weights: LayerWeights[PackedMatrix]
    ) -> None:
        mixed = self._add_projections(number, weights, ("in_proj_xbc", "in_proj_dt", "in_proj_z"))
        self._add_conv(config.state_shape, weights.vectors, mixed, output_buffer=mixed)
        out = self._add_memory(
            config.state_shape,
            weights,
            mixed,
            heads_per_key=config.num_heads // config.num_groups,
            queries=config.inner_size + config.key_size,
            keys=config.inner_size,
            decay_input=config.conv_channels,
            gate=config.conv_channels + config.num_heads,
            skip=self.floats(weights.vectors["D"]),
            norm=self.floats(weights.vectors["norm_weight"]),
            norm_groups=config.num_groups,
        )
        self._add_recurrent_output(number, config.state_shape, weights, out)

    def _add_projections(
        self, number: int, weights: LayerWeights[PackedMatrix], names: Sequence[str]
    ) -> int:
        """Add the product of a mixer's input with several matrices; return the buffer."""
        size = sum(weights.matrices[name].rows for name in names)
        buffer = self._buffer("recurrent input", size)
        self.add_matmul(
            self._targets(number, weights, names),
            self._config.hidden_size,
            norm=weights.vectors.get("pre_mixer_norm"),
            output_buffer=buffer,
        )
        return buffer

    def _add_conv(
        self,
        shape: StateShape,
        vectors: Mapping[str, Tensor],
        input_buffer: int,
        *,
        output_buffer: int,
        input: int = 0,
        input_gate: int = -1,
        output_gate: int = -1,
        activate: bool = True,
    ) -> None:
        before, channels = shape.window
        if before >= MAX_CONV_KERNEL:
            raise Unsupported(f"the C kernel convolves no {before + 1} tokens")
        conv = _ConvStruct(
            channels=channels,
            kernel_size=before + 1,
            weight=self.floats(vectors["conv"].view(channels, before + 1).T),
            bias=self.floats(vectors.get("conv_bias")),
            activate=activate,
            input_buffer=input_buffer,
            output_buffer=output_buffer,
            input=input,
            input_gate=input_gate,
            output_gate=output_gate,
            state=self._state_offset,
            log=self._log_offset,
        )
        self.add_step(_STEP_CONV, conv)

    def _add_memory(
        self,
        shape: StateShape,
        weights: LayerWeights[PackedMatrix],
        input_buffer: int,
        **fields: Any,
    ) -> int:
        """Add linear attention; return the buffer of its output."""
        heads, key_dim, value_dim = shape.memory or (0, 0, 0)
        output_buffer = self._buffer("recurrent output", heads * value_dim)
        order = weights.matrices["out_proj"].column_order
        memory = _MemoryStruct(
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            decay_rate=self.floats(weights.vectors["A_log"].float().exp()),
            decay_bias=self.floats(weights.vectors["dt_bias"]),
            places=None if order is None else self._head_places(order, value_dim),
            epsilon=self._config.rms_norm_eps,
            input_buffer=input_buffer,
            output_buffer=output_buffer,
            state=self._state_offset + shape.window_size,
            log=self._log_offset + shape.log_window_size,
            **fields,
        )
        self.add_step(_STEP_MEMORY, memory)
        return output_buffer

    def _head_places(self, order: Tensor, size: int) -> int:
        """Return the address of the heads' places in an order of columns that keeps heads whole."""
        places = order[::size] // size
        if not torch.equal(order, (places[:, None] * size + torch.arange(size)).flatten()):
            raise Unsupported("the columns of its output projection are in an unknown order")
        return self._array(c_int64, places.tolist())

    def _add_recurrent_output(
        self,
        number: int,
        shape: StateShape,
        weights: LayerWeights[PackedMatrix],
        input_buffer: int,
    ) -> None:
        self.add_output(
            self._targets(number, weights, ("out_proj",)),
            weights.matrices["out_proj"].columns,
            weights.vectors.get("post_mixer_norm"),
            input_buffer=input_buffer,
        )
        self._state_offset += shape.size
        self._log_offset += shape.log_size

    def _add_dense_mlp(
        self, number: int, config: DenseMlpConfig, weights: LayerWeights[PackedMatrix]
    ) -> None:
        gate = self._buffer("gate", config.intermediate_size)
        self.add_matmul(
            self._targets(number, weights, ("gate_proj", "up_proj")),
            self._config.hidden_size,
            norm=weights.vectors.get("pre_mlp_norm"),
            output_buffer=gate,
            gate=config.activation,
            up_buffer=self._buffer("up", config.intermediate_size),
        )
        self.add_output(
            self._targets(number, weights, ("down_proj",)),
            config.intermediate_size,
            weights.vectors.get("post_mlp_norm"),
            input_buffer=gate,
        )

    def _add_moe(self, number: int, config: MoeConfig, weights: LayerWeights[PackedMatrix]) -> None:
        """Add a router, the chosen experts, and a shared expert, which reads the residual before
        the others add to it."""
        if weights.moe is None or "post_mlp_norm" in weights.vectors:
            raise Unsupported("the C kernel does not normalize the outputs of experts")
        experts: PackedExperts = weights.moe.experts
        hidden_size, norm = self._config.hidden_size, weights.vectors.get("pre_mlp_norm")
        routers = [experts.router] + ([experts.shared_gate] if experts.shared_gate else [])
        logits = self._buffer("router", sum(matrix.rows for matrix in routers))
        self.add_matmul(
            [(matrix, NO_LORA) for matrix in routers],
            hidden_size,
            norm=norm,
            output_buffer=logits,
            routes=experts.struct,
        )
        inner_size = config.num_experts_per_tok * experts.matrices["down_proj"][0].width
        step = _ExpertsStruct(
            moe=experts.struct,
            norm=self.floats(norm),
            inner_buffer=self._buffer("inner", inner_size),
            up_buffer=self._buffer("inner_up", inner_size),
            multiplier=self._config.residual_multiplier,
        )
        self.add_step(_STEP_EXPERTS_GATE_UP, step)
        size, names = config.shared_intermediate_size, ("gate_proj", "up_proj", "down_proj")
        gate_proj, up_proj, down_proj = (f"{SHARED_PREFIX}{name}" for name in names)
        gate = self._buffer("gate", size) if size else 0
        if size:
            self.add_matmul(
                self._targets(number, weights, (gate_proj, up_proj)),
                hidden_size,
                norm=norm,
                output_buffer=gate,
                gate="silu",
                up_buffer=self._buffer("up", size),
                share=(logits, config.num_experts) if experts.shared_gate else (-1, 0),
            )
        self.add_step(_STEP_EXPERTS_DOWN, step)
        if size:
            down = self._targets(number, weights, (down_proj,))
            self.add_output(down, size, None, input_buffer=gate)

    def add_output(
        self,
        matrices: Sequence[tuple[PackedMatrix, int]],
        input_size: int,
        post_norm: Tensor | None,
        *,
        input_buffer: int | None = None,
        attention: _AttentionStruct | None = None,
    ) -> None:
        """Add a product whose results are added to the residual, with a norm first or without.

        Args:
            matrices: see `add_matmul`; only one.
            input_size: see `add_matmul`.
            post_norm: of the results, or None.
            input_buffer: see `add_matmul`.
            attention: see `add_matmul`.
        """
        hidden_size = self._config.hidden_size
        self.add_matmul(
            matrices,
            input_size,
            input_buffer=input_buffer,
            attention=attention,
            output="residual" if post_norm is None else "buffer",
            output_buffer=self._buffer("branch", hidden_size) if post_norm is not None else 0,
            norms=[] if post_norm is None else [NormSpan(post_norm, 0, hidden_size)],
            sum_buffer=None if post_norm is None else 0,
        )

    def add_matmul(
        self,
        matrices: Sequence[tuple[PackedMatrix, int]],
        input_size: int,
        *,
        norm: Tensor | None = None,
        input_buffer: int | None = None,
        attention: _AttentionStruct | None = None,
        output: Literal["buffer", "residual", "logits"] = "buffer",
        output_buffer: int = 0,
        gate: str | None = None,
        up_buffer: int = 0,
        up_offset: int = 0,
        norms: Sequence[NormSpan] = (),
        sum_buffer: int | None = None,
        multiplier: float | None = None,
        routes: MoeStruct | None = None,
        share: tuple[int, int] = (-1, 0),
    ) -> None:
        """Add a step that multiplies up to four matrices with the same input.

        Args:
            matrices: with their indices among the pairs of an adapter.
            input_size: values of a vector.
            norm: of the residual, which is the input unless the next two say otherwise.
            input_buffer: whose vectors are the input; their size is `input_size`.
            attention: the step before, whose results are the input.
            output: where to; `residual` is added to.
            output_buffer: for the output "buffer".
            gate: the activation of the first matrix, by which the second is then multiplied.
            up_buffer: for the second matrix; without one, whose values are multiplied instead.
            up_offset: of these values.
            norms: what is normalized when the whole output is there.
            sum_buffer: to which the output is then added, 0 for the residual; None for none.
            multiplier: of what is added; None for the model's `residual_multiplier`.
            routes: the mixture whose experts the output chooses.
            share: for a gated step, a buffer and an index of its vectors: the sigmoid of the value
                there multiplies the output.
        """
        kind = "buffer" if input_buffer is not None else "attention" if attention else "residual"
        struct = _MatmulStruct(
            matrix_count=len(matrices),
            input=_INPUTS.index(kind),
            input_buffer=input_buffer or 0,
            input_size=input_size,
            norm=self.floats(norm),
            attention=None if attention is None else ctypes.addressof(attention),
            output=_OUTPUTS.index(output),
            output_buffer=output_buffer,
            gate=GATES.index(gate),
            up_buffer=up_buffer,
            up_offset=up_offset,
            norm_count=len(norms),
            sum_buffer=-1 if sum_buffer is None else sum_buffer,
            sum_size=sum(matrix.rows for matrix, _ in matrices),
            multiplier=self._config.residual_multiplier if multiplier is None else multiplier,
            sum_scale=1.0,
            routes=None if routes is None else ctypes.addressof(routes),
            share_buffer=share[0],
            share_offset=share[1],
        )
        for index, (matrix, lora) in enumerate(matrices):
            struct.matrices[index] = _StepMatrixStruct(matrix.as_struct(), lora)
        for index, span in enumerate(norms):
            struct.norms[index] = _NormSpanStruct(
                self.floats(span.weight),
                span.offset,
                span.size,
                span.count,
                self._config.rms_norm_eps if span.epsilon is None else span.epsilon,
            )
        self._last_matmul = struct
        self.add_step(_STEP_MATMUL, struct)

    def add_step(self, kind: int, detail: ctypes.Structure) -> None:
        """Add a step; `detail` is its struct in the kernel."""
        self._keepalive.append(detail)
        self._steps.append(_StepStruct(kind, ctypes.addressof(detail)))

    def _targets(
        self, layer: int, weights: LayerWeights[PackedMatrix], names: Sequence[str]
    ) -> list[tuple[PackedMatrix, int]]:
        """Return matrices with their indices among the pairs of an adapter."""
        first = len(self.lora_targets)
        self.lora_targets += [(layer, name) for name in names]
        return [(weights.matrices[name], first + index) for index, name in enumerate(names)]

    def _buffer(self, name: str, size: int) -> int:
        """Return the index of a buffer; each size has its own, since the padding stays zero."""
        return self._buffers.setdefault((name, size), len(self._buffers))

    def floats(self, tensor: Tensor | None) -> int | None:
        """Return the address of a tensor's values in float32; None for None."""
        if tensor is None:
            return None
        values = tensor.float().contiguous()
        self._keepalive.append(values)
        return values.data_ptr()

    def _array(self, kind: Any, values: Sequence[Any]) -> int:
        array = (kind * len(values))(*values)
        self._keepalive.append(array)
        return ctypes.addressof(array)
