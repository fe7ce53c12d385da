"""Build the C kernel's program for a model: the steps of its layers, see csrc/model.h."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int64, c_void_p
from typing import Any, Literal

from torch import Tensor

from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.kernel import (
    PackedMatrix,
    PackedMatrixStruct,
    StoredMatrixStruct,
    as_stored_struct,
)
from chatlm.engines.native.mlp import DenseMlpConfig
from chatlm.engines.native.model_config import LayerConfig, ModelConfig
from chatlm.engines.native.stored_matrix import StoredMatrix
from chatlm.engines.native.weights import LayerWeights, ModelWeights

MAX_STEP_MATRICES = 4

_STEP_MATMUL, _STEP_ATTENTION = range(2)
_INPUTS = ("residual", "buffer", "attention")
_OUTPUTS = ("buffer", "residual", "logits")
_GATES = (None, "silu", "gelu_tanh")


class _StepStruct(ctypes.Structure):
    _fields_ = (("kind", c_int64), ("detail", c_void_p))


class _AttentionStruct(ctypes.Structure):
    _fields_ = (
        *(
            (name, c_int64)
            for name in (
                "num_attention_heads", "num_key_value_heads", "head_dim", "kv_layer", "window",
                "qkv_buffer", "rope", "rotary_dim", "interleaved",
            )
        ),
        ("scale", c_float),
        ("softcap", c_float),
        *((name, c_void_p) for name in ("q_norm", "k_norm", "sinks")),
    )  # fmt: skip


class _StepMatrixStruct(ctypes.Structure):
    _fields_ = (("matrix", PackedMatrixStruct), ("lora", c_int64))


class _NormSpanStruct(ctypes.Structure):
    _fields_ = (("weight", c_void_p), ("offset", c_int64), ("size", c_int64))


class _MatmulStruct(ctypes.Structure):
    _fields_ = (
        ("matrices", _StepMatrixStruct * MAX_STEP_MATRICES),
        *((name, c_int64) for name in ("matrix_count", "input", "input_buffer", "input_size")),
        ("norm", c_void_p),
        ("attention", c_void_p),
        *((name, c_int64) for name in ("output", "output_buffer", "gate", "up_buffer")),
        ("norms", _NormSpanStruct * 2),
        *((name, c_int64) for name in ("norm_count", "adds_normed")),
        ("multiplier", c_float),
    )


class _ModelStruct(ctypes.Structure):
    _fields_ = (
        ("hidden_size", c_int64),
        ("rms_norm_eps", c_float),
        ("embedding_multiplier", c_float),
        ("embed_tokens", StoredMatrixStruct),
        ("steps", c_void_p),
        ("step_count", c_int64),
        ("buffer_sizes", c_void_p),
        *((name, c_int64) for name in ("buffer_count", "lora_count")),
    )


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
        self._attention_count = 0
        for number, (layer, own) in enumerate(zip(config.layers, weights.layers, strict=True)):
            self._add_layer(number, layer, own)
        self.add_matmul(
            [(weights.lm_head, 0)], config.hidden_size, norm=weights.norm, output="logits"
        )
        self._struct = _ModelStruct(
            config.hidden_size,
            config.rms_norm_eps,
            config.embedding_multiplier,
            as_stored_struct(weights.embed_tokens),
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
        self._add_attention(number, layer.mixer, weights)
        self._add_dense_mlp(number, layer.mlp, weights)

    def _add_attention(
        self, number: int, config: AttentionConfig, weights: LayerWeights[PackedMatrix]
    ) -> None:
        vectors, hidden_size = weights.vectors, self._config.hidden_size
        names = ("q_proj", "k_proj", "v_proj")
        sizes = [weights.matrices[name].rows for name in names]
        qkv = self._buffer("qkv", sum(sizes))
        spans: list[tuple[Tensor, int, int]] = []
        if config.qk_norm == "projection":
            spans = [
                (vectors["q_norm"], 0, sizes[0]), (vectors["k_norm"], sizes[0], sizes[1]),
            ]  # fmt: skip
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
            kv_layer=self._attention_count,
            window=config.window or 0,
            qkv_buffer=qkv,
            rope=-1 if config.rope is None else self._config.ropes.index(config.rope),
            rotary_dim=0 if config.rope is None else config.rope.rotary_dim,
            interleaved=config.rope is not None and config.rope.interleaved,
            scale=config.scale,
            softcap=config.softcap or 0.0,
            q_norm=self.floats(vectors["q_norm"] if per_head else None),
            k_norm=self.floats(vectors["k_norm"] if per_head else None),
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
            norms=[] if post_norm is None else [(post_norm, 0, hidden_size)],
            adds_normed=post_norm is not None,
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
        norms: Sequence[tuple[Tensor, int, int]] = (),
        adds_normed: bool = False,
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
            up_buffer: for the second matrix.
            norms: weight, offset and size of values that are normalized when all are there.
            adds_normed: whether the output is then added to the residual.
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
            gate=_GATES.index(gate),
            up_buffer=up_buffer,
            norm_count=len(norms),
            adds_normed=adds_normed,
            multiplier=self._config.residual_multiplier,
        )
        for index, (matrix, lora) in enumerate(matrices):
            struct.matrices[index] = _StepMatrixStruct(matrix.as_struct(), lora)
        for index, (weight, offset, size) in enumerate(norms):
            struct.norms[index] = _NormSpanStruct(self.floats(weight), offset, size)
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
