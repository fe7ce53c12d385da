"""Inputs that layers have of a token itself, besides the residual stream (Gemma 4).

Each layer has a vector per token: of a table, and of a projection of the token's embedding. A gate
that the layer computes of the residual stream multiplies it, and the product is added to that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from chatlm.engines.native.matrix_shape import MatrixShape
from chatlm.engines.native.norms import rms_norm
from chatlm.engines.native.products import Activation, multiply_gated
from chatlm.engines.native.weights import Embed, LayerInputWeights, LayerWeights, MatMul

SHARE = 2**-0.5
"""Of the table and of the projection in the sum of both."""


@dataclass(frozen=True)
class LayerInputConfig:
    """The inputs of a model's layers."""

    size: int
    """Values for each layer."""
    activation: Activation
    """Of the gates."""

    def matrix_shapes(self, hidden_size: int) -> Mapping[str, MatrixShape]:
        """Return the matrices of a layer by name."""
        return {
            "input_gate": MatrixShape(self.size, hidden_size),
            "input_proj": MatrixShape(hidden_size, self.size),
        }

    def vector_sizes(self, hidden_size: int) -> Mapping[str, int]:
        """Return the sizes of a layer's vectors by name."""
        return {"post_input_norm": hidden_size}


def layer_inputs(
    config: LayerInputConfig,
    weights: LayerInputWeights[MatMul, Embed],
    ids: Tensor,
    embeddings: Tensor,
    eps: float,
) -> Tensor:
    """Return the inputs of all layers: (layers, tokens, size), as `embeddings`.

    Args:
        config: of the model.
        weights: of the model.
        ids: of the tokens.
        embeddings: of the tokens, as they enter the first layer: (tokens, hidden_size).
        eps: of the norm.
    """
    dtype, hidden_size = embeddings.dtype, embeddings.shape[1]
    projected = weights.projection(embeddings) * hidden_size**-0.5
    projected = projected.unflatten(1, (-1, config.size)).transpose(0, 1).contiguous()
    projected = rms_norm(projected, weights.norm, eps, dtype)
    rows = weights.table(ids).to(dtype) * config.size**0.5
    rows = rows.unflatten(1, (-1, config.size)).transpose(0, 1)
    inputs: Tensor = (projected + rows) * SHARE
    return inputs


def gated_input(
    config: LayerInputConfig, weights: LayerWeights[MatMul], x: Tensor, inputs: Tensor, eps: float
) -> Tensor:
    """Return what a layer adds to the residual stream: (tokens, hidden_size), as `x`.

    Args:
        config: of the model.
        weights: of the layer.
        x: the residual stream, in the dtype of the computation.
        inputs: of the layer: (tokens, size).
        eps: of the norm.
    """
    gate = weights.matrices["input_gate"](x)
    out = multiply_gated(weights.matrices["input_proj"], config.activation, gate, inputs)
    return rms_norm(out, weights.vectors["post_input_norm"], eps, x.dtype)
