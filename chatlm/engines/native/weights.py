"""The weights of a model: as its files hold them, packed, or as tensors that torch multiplies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from chatlm.engines.native.stored_matrix import StoredMatrix

MatMul = Callable[[Tensor], Tensor]
"""Multiplies a (rows, columns) matrix with vectors: (…, columns) to (…, rows)."""

Embed = Callable[[Tensor], Tensor]
"""Looks up the embeddings of token ids: (tokens,) to (tokens, hidden_size)."""


@dataclass(frozen=True)
class Linear:
    """A (rows, columns) matrix and its optional bias, (rows,)."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, see `MatMul`."""
        return torch.nn.functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class EmbeddingTable:
    """An embedding in memory: (vocab_size, hidden_size)."""

    weight: Tensor

    def __call__(self, ids: Tensor) -> Tensor:
        """Look up, see `Embed`."""
        return self.weight[ids]


Matrix = TypeVar("Matrix", covariant=True)
Embedding = TypeVar("Embedding", covariant=True)


@dataclass(frozen=True)
class MoeWeights:
    """The tensors of a layer's mixture of experts."""

    router: Tensor
    """(num_experts, hidden_size), float32."""
    router_bias: Tensor | None
    """(num_experts,), float32."""
    experts: Any
    """`StoredExperts` by the names of their matrices, or what mixes them: see `moe.Experts`."""
    shared_gate: Tensor | None = None
    """Of the shared expert: (1, hidden_size), float32."""
    choice_bias: Tensor | None = None
    """See `MoeConfig.choice_bias`: (num_experts,), float32."""

    def vectors(self) -> Mapping[str, Tensor | None]:
        """Return what there is besides the experts, by name."""
        return {
            name: getattr(self, name)
            for name in ("router", "router_bias", "shared_gate", "choice_bias")
        }


@dataclass(frozen=True)
class LayerWeights(Generic[Matrix]):
    """The tensors of one layer; which there are follows from its `LayerConfig`."""

    matrices: Mapping[str, Matrix]
    """By their usual names, such as `q_proj`."""
    vectors: Mapping[str, Tensor]
    """Norms and the like, such as `pre_mlp_norm`."""
    moe: MoeWeights | None = None
    """For a layer with a mixture of experts."""


@dataclass(frozen=True)
class LayerInputWeights(Generic[Matrix, Embedding]):
    """The tensors that make the inputs of all layers, see `layer_inputs`."""

    table: Embedding
    """(vocab_size, layers * size)"""
    projection: Matrix
    """(layers * size, hidden_size)"""
    norm: Tensor
    """(size,)"""


@dataclass(frozen=True)
class ModelWeights(Generic[Matrix, Embedding]):
    """All tensors of a model; matrices are all stored, all packed or all in one dtype."""

    embed_tokens: Embedding
    layers: tuple[LayerWeights[Matrix], ...]
    norm: Tensor
    lm_head: Matrix
    layer_inputs: LayerInputWeights[Matrix, Embedding] | None = None

    def matrices(self) -> Iterator[Matrix]:
        """Yield the matrices of all layers."""
        for layer in self.layers:
            yield from layer.matrices.values()


StoredWeights = ModelWeights[StoredMatrix, StoredMatrix]
"""As the model's files hold them; vectors are float32."""


@dataclass(frozen=True)
class MtpWeights:
    """The tensors of an `MtpConfig`, as the model's files hold them."""

    model: StoredWeights
    projection: StoredMatrix
    embedding_norm: Tensor
    """(hidden_size,)"""
    hidden_norm: Tensor
    """(hidden_size,)"""


LinearWeights = ModelWeights[Linear, EmbeddingTable]
"""As tensors in memory."""

ComputedWeights = ModelWeights[MatMul, Embed]
"""What a forward pass needs."""


def map_layer(
    layer: LayerWeights[Any],
    convert: Callable[[Any], Any],
    convert_vector: Callable[[Tensor], Tensor] = lambda vector: vector,
    convert_moe: Callable[[MoeWeights], MoeWeights] = lambda moe: moe,
) -> LayerWeights[Any]:
    """Return a layer with converted matrices and vectors."""
    return LayerWeights(
        {name: convert(matrix) for name, matrix in layer.matrices.items()},
        {name: convert_vector(vector) for name, vector in layer.vectors.items()},
        None if layer.moe is None else convert_moe(layer.moe),
    )


def replace_matrices(layer: LayerWeights[Any], changed: Mapping[str, Any]) -> LayerWeights[Any]:
    """Return a layer with some matrices replaced."""
    return dataclasses.replace(layer, matrices={**layer.matrices, **changed})
