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
    """A matrix with a LoRA pair: `base(x) + scale * lora_b(lora_a(x))`."""

    base: MatMul
    lora_a: MatMul
    """Equal for the parts of a matrix that an adapter has in one piece."""
    lora_b: MatMul
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, see `MatMul`."""
        return multiply_all([self], x)[0]

    def add(self, product: Tensor, hidden: Tensor) -> Tensor:
        """Return the product with the matrix and what follows from that with `lora_a`."""
        return product + self.lora_b(hidden) * self.scale


def multiply_all(matrices: Sequence[MatMul], x: Tensor) -> list[Tensor]:
    """Multiply matrices of the same width with the same vectors, see `MatMul`."""
    parts: dict[int, MatMul] = {}
    for each in matrices:
        own = (each.base, each.lora_a) if isinstance(each, AdaptedMatMul) else (each,)
        parts.update((id(part), part) for part in own)
    made = dict(zip(parts, _multiply_group([*parts.values()], x), strict=True))
    return [
        each.add(made[id(each.base)], made[id(each.lora_a)])
        if isinstance(each, AdaptedMatMul)
        else made[id(each)]
        for each in matrices
    ]


def _multiply_group(matrices: Sequence[MatMul], x: Tensor) -> list[Tensor]:
    first = matrices[0]
    if isinstance(first, GroupMatMul) and all(type(each) is type(first) for each in matrices):
        return first.multiply_group(matrices, x)
    return [each(x) for each in matrices]


def multiply_gated(matrix: MatMul, activation: Activation, gate: Tensor, up: Tensor) -> Tensor:
    """Multiply a matrix with `activation(gate) * up`, see `MatMul`."""
    if isinstance(matrix, GroupMatMul):
        return matrix.multiply_gated(activation, gate, up)
    if isinstance(matrix, AdaptedMatMul) and isinstance(matrix.lora_a, GroupMatMul):
        base, hidden = (
            multiply_gated(each, activation, gate, up) for each in (matrix.base, matrix.lora_a)
        )
        return matrix.add(base, hidden)
    return matrix(apply_gate(activation, gate, up))


def apply_gate(activation: Activation, gate: Tensor, up: Tensor) -> Tensor:
    """Return `activation(gate) * up`, in their shape and dtype."""
    if compiled := elementwise(gate, up):
        return compiled.apply_gate(gate, up, is_gelu=activation == "gelu_tanh")
    return _ACTIVATIONS[activation](gate) * up
