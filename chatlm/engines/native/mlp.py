"""The dense MLP of a layer in torch: a gate, its activation, and two further matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor
from torch.nn.functional import gelu, silu

from chatlm.engines.native.elementwise import elementwise
from chatlm.engines.native.matrix_shape import MatrixShape
from chatlm.engines.native.weights import LayerWeights, MatMul

Activation = Literal["silu", "gelu_tanh"]
"""Applied to the gate: x * sigmoid(x), or GELU in its approximation by tanh."""

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
}


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
    gate, up, down = (weights.matrices[name] for name in ("gate_proj", "up_proj", "down_proj"))
    return down(gated(config.activation, gate(x), up(x)))


def gated(activation: Activation, gate: Tensor, up: Tensor) -> Tensor:
    """Return `activation(gate) * up`, in their shape and dtype."""
    if compiled := elementwise(gate, up):
        return compiled.apply_gate(gate, up, is_gelu=activation == "gelu_tanh")
    return ACTIVATIONS[activation](gate) * up
