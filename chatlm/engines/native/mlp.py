"""The dense MLP of a layer in torch: a gate, its activation, and two further matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from chatlm.engines.native.matrix_shape import MatrixShape
from chatlm.engines.native.products import Activation, multiply_all, multiply_gated
from chatlm.engines.native.weights import LayerWeights, MatMul


@dataclass(frozen=True)
class DenseMlpConfig:
    """A layer's MLP: `down(activation(gate(x)) * up(x))`."""

    intermediate_size: int
    activation: Activation = "silu"
    bias: bool = False

    def matrix_shapes(self, hidden_size: int) -> Mapping[str, MatrixShape]:
        """Return its matrices by name."""
        return {
            "gate_proj": MatrixShape(self.intermediate_size, hidden_size, self.bias),
            "up_proj": MatrixShape(self.intermediate_size, hidden_size, self.bias),
            "down_proj": MatrixShape(hidden_size, self.intermediate_size, self.bias),
        }

    def vector_sizes(self) -> Mapping[str, int]:
        """Return the sizes of its vectors by name: none."""
        return {}


def dense_mlp(config: DenseMlpConfig, weights: LayerWeights[MatMul], x: Tensor) -> Tensor:
    """Return the MLP's output: (tokens, hidden_size), as `x`."""
    matrices = weights.matrices
    gate, up = multiply_all([matrices["gate_proj"], matrices["up_proj"]], x)
    return multiply_gated(matrices["down_proj"], config.activation, gate, up)
