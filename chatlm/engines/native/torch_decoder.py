"""Decode tokens in torch with packed int8 and int4 matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatlm.engines.native.forward import prefill
from chatlm.engines.native.kv_cache import SequenceInput
from chatlm.engines.native.lora import LoraWeights, with_lora
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.quantization import WeightFormat, choose_format, pack_int4, pack_int8
from chatlm.engines.native.rope import RopeTables
from chatlm.engines.native.stored_matrix import stored_tensor
from chatlm.engines.native.weights import (
    ComputedWeights,
    LayerWeights,
    Linear,
    LinearWeights,
    MatMul,
    ModelWeights,
    map_layer,
)


class TorchDecoder:
    """A decoder for every architecture, which packs the matrices whose sizes torch supports.

    Args:
        config: of the model.
        weights: of the model.
        weight_format: of the packed matrices, None for `choose_format`; with int4 the output
            matrix is int8.
    """

    max_step_tokens = 1
    prompt_attention = None

    def __init__(
        self, config: ModelConfig, weights: LinearWeights, weight_format: WeightFormat | None
    ) -> None:
        self._config = config
        self.kv_dtype = weights.embed_tokens.weight.dtype
        self.formats: set[WeightFormat] = set()
        """Formats of the layers' matrices."""
        self._weights: ComputedWeights = ModelWeights(
            embed_tokens=weights.embed_tokens,
            layers=tuple(self._pack_layer(layer, weight_format) for layer in weights.layers),
            norm=weights.norm,
            lm_head=_pack(weights.lm_head, "bf16" if weight_format == "bf16" else "int8"),
            layer_inputs=weights.layer_inputs,
        )

    def _pack_layer(
        self, layer: LayerWeights[Linear], weight_format: WeightFormat | None
    ) -> LayerWeights[MatMul]:
        def pack(matrix: Linear) -> MatMul:
            matrix_format = weight_format or choose_format([stored_tensor(matrix.weight)])
            self.formats.add(matrix_format)
            return _pack(matrix, matrix_format)

        return map_layer(layer, pack)

    def pack_adapter(self, lora: LoraWeights) -> ComputedWeights:
        """Return the packed weights with an adapter."""
        return with_lora(self._weights, lora)

    def prompt_matrix(self, matrix: Tensor) -> MatMul:
        """Return what multiplies with a matrix in torch."""
        return Linear(matrix)

    def settle(self, sequence: SequenceInput) -> None:
        """Do nothing: `decode` leaves nothing out."""

    def decode(self, sequences: Sequence[SequenceInput], ropes: RopeTables) -> Tensor:
        """Decode the tokens one by one."""
        return torch.stack(
            [
                prefill(
                    self._config,
                    sequence.adapter or self._weights,
                    sequence.kv_cache,
                    [token],
                    ropes,
                )
                for sequence in sequences
                for token in sequence.tokens
            ]
        )


def _pack(matrix: Linear, weight_format: WeightFormat) -> MatMul:
    rows, columns = matrix.weight.shape
    if weight_format == "bf16" or rows % 16 or columns % 32:
        return matrix
    return pack_int4(matrix) if weight_format == "int4" else pack_int8(matrix)
