"""Products of a prompt's vectors with matrices, some of which share work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import gelu, silu

from chatlm.engines.native.elementwise import elementwise
from chatlm.engines.native.weights import MatMul

Activation = Literal["silu", "gelu_tanh"]
"""Applied to the gate: x * sigmoid(x), or GELU in its approximation by tanh."""

_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
}


class GroupMatMul(ABC):
    """A `MatMul` that shares work with others of its class, and applies gates itself."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, see `MatMul`."""
        return self.multiply_group([self], x)[0]

    @abstractmethod
    def multiply_group(self, group: Sequence[Any], x: Tensor) -> list[Tensor]:
        """Multiply matrices of the same class and width, this one first, with the same vectors."""

    @abstractmethod
    def multiply_gated(self, activation: Activation, gate: Tensor, up: Tensor) -> Tensor:
        """Multiply with `activation(gate) * up`."""


@dataclass(frozen=True)
class AdaptedMatMul:
    """A matrix with an adapter: the sum of two products."""

    base_layer: MatMul
    lora: MatMul

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, see `MatMul`."""
        return self.base_layer(x) + self.lora(x)


def multiply_all(matrices: Sequence[MatMul], x: Tensor) -> list[Tensor]:
    """Multiply matrices of the same width with the same vectors, see `MatMul`."""
    bases = [each.base_layer if isinstance(each, AdaptedMatMul) else each for each in matrices]
    first = bases[0]
    if isinstance(first, GroupMatMul) and all(type(each) is type(first) for each in bases):
        products = first.multiply_group(bases, x)
    else:
        products = [base(x) for base in bases]
    return [
        product + each.lora(x) if isinstance(each, AdaptedMatMul) else product
        for each, product in zip(matrices, products, strict=True)
    ]


def multiply_gated(matrix: MatMul, activation: Activation, gate: Tensor, up: Tensor) -> Tensor:
    """Multiply a matrix with `activation(gate) * up`, see `MatMul`."""
    if isinstance(matrix, GroupMatMul):
        return matrix.multiply_gated(activation, gate, up)
    return matrix(apply_gate(activation, gate, up))


def apply_gate(activation: Activation, gate: Tensor, up: Tensor) -> Tensor:
    """Return `activation(gate) * up`, in their shape and dtype."""
    if compiled := elementwise(gate, up):
        return compiled.apply_gate(gate, up, is_gelu=activation == "gelu_tanh")
    return _ACTIVATIONS[activation](gate) * up
