"""The weights of a model: as its files hold them, or as tensors that torch multiplies."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.dequantize import dequantize_matrix
from chatlm.engines.native.gguf_tensors import GgufTensors
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.stored_matrix import (
    ELEMENT_TYPES,
    StoredMatrix,
    TensorReader,
    stored_tensor,
)
from chatlm.hub.weights import gguf_file

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
class LayerWeights(Generic[Matrix]):
    """The tensors of one layer; norms that its block lacks are None."""

    q_proj: Matrix
    k_proj: Matrix
    v_proj: Matrix
    o_proj: Matrix
    gate_proj: Matrix
    up_proj: Matrix
    down_proj: Matrix
    pre_attention_norm: Tensor | None
    post_attention_norm: Tensor | None
    pre_mlp_norm: Tensor | None
    post_mlp_norm: Tensor | None
    q_norm: Tensor | None
    """(head_dim,), or (heads * head_dim,) where it covers the whole projection."""
    k_norm: Tensor | None


@dataclass(frozen=True)
class ModelWeights(Generic[Matrix, Embedding]):
    """All tensors of a model; matrices are all stored, all packed or all in one dtype."""

    embed_tokens: Embedding
    layers: tuple[LayerWeights[Matrix], ...]
    norm: Tensor
    lm_head: Matrix


StoredWeights = ModelWeights[StoredMatrix, StoredMatrix]
"""As the model's files hold them; vectors are float32."""

LinearWeights = ModelWeights[Linear, EmbeddingTable]
"""As tensors in memory."""

ComputedWeights = ModelWeights[MatMul, Embed]
"""What a forward pass needs."""

LINEAR_FIELDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of `LayerWeights`."""

NORM_FIELDS = (
    "pre_attention_norm", "post_attention_norm", "pre_mlp_norm", "post_mlp_norm", "q_norm",
    "k_norm",
)  # fmt: skip
"""The vectors of `LayerWeights`."""


def read_weights(folder: Path, config: ModelConfig) -> StoredWeights:
    """Map the weights of a model into memory; nothing but vectors is copied.

    Args:
        folder: with a GGUF file or safetensors.
        config: of the model.

    Raises:
        Unsupported: a tensor is missing, unknown, has another shape, or an unsupported type.
    """
    with _open_tensors(folder) as tensors:
        names = config.tensor_names
        embedding = tensors.matrix(
            f"{names.embed_tokens}.weight", config.vocab_size, config.hidden_size
        )
        head = f"{names.lm_head}.weight"
        weights = ModelWeights(
            embed_tokens=embedding,
            layers=tuple(
                _read_layer(config, f"{names.layers}.{number}", tensors)
                for number in range(config.num_hidden_layers)
            ),
            norm=tensors.vector(f"{names.norm}.weight", config.hidden_size),
            lm_head=embedding
            if config.tie_word_embeddings
            else tensors.matrix(head, config.vocab_size, config.hidden_size),
        )
        tensors.check_all_used(head if config.tie_word_embeddings else "")
        return weights


def to_linear(weights: StoredWeights, dtype: torch.dtype, device: str = "cpu") -> LinearWeights:
    """Convert all tensors to a dtype; matrices on the CPU that have it already stay mapped."""

    def tensor(matrix: StoredMatrix) -> Tensor:
        if matrix.type == ELEMENT_TYPES.get(dtype) and matrix.row_order is None:
            return matrix.data.view(dtype).to(device)
        return dequantize_matrix(matrix, dtype).to(device)

    def linear(matrix: StoredMatrix) -> Linear:
        return Linear(tensor(matrix), vector(matrix.bias))

    def vector(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(device, dtype)

    embedding = tensor(weights.embed_tokens)
    is_tied = weights.lm_head is weights.embed_tokens
    return ModelWeights(
        embed_tokens=EmbeddingTable(embedding),
        layers=tuple(map_layer(layer, linear, vector) for layer in weights.layers),
        norm=weights.norm.to(device, dtype),
        lm_head=Linear(embedding) if is_tied else linear(weights.lm_head),
    )


def map_layer(
    layer: LayerWeights[Any],
    convert: Callable[[Any], Any],
    convert_vector: Callable[[Tensor | None], Tensor | None],
) -> LayerWeights[Any]:
    """Return a layer with converted matrices and vectors."""
    matrices = {name: convert(getattr(layer, name)) for name in LINEAR_FIELDS}
    vectors = {name: convert_vector(getattr(layer, name)) for name in NORM_FIELDS}
    return dataclasses.replace(layer, **matrices, **vectors)


class _SafetensorsReader:
    """A `TensorReader` of a model's safetensors files.

    Args:
        folder: of the model.
        files: closes them; tensors stay mapped.
    """

    def __init__(self, folder: Path, files: ExitStack) -> None:
        index = folder / "model.safetensors.index.json"
        names = ["model.safetensors"]
        if index.is_file():
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        self._file_of_tensor: dict[str, Any] = {}
        for name in names:
            file = files.enter_context(safe_open(folder / name, framework="pt"))
            self._file_of_tensor.update(dict.fromkeys(file.keys(), file))
        self._unused = set(self._file_of_tensor)

    def matrix(self, name: str, rows: int, columns: int) -> StoredMatrix:
        """Return a matrix without its bias."""
        return stored_tensor(self._find(name, rows, columns))

    def vector(self, name: str, size: int) -> Tensor:
        """Return a vector in float32."""
        return self._find(name, size).to(torch.float32, copy=True)

    def check_all_used(self, tied: str) -> None:
        """Refuse tensors that the architecture does not have, such as biases."""
        derived = {name for name in self._unused if name.endswith("rotary_emb.inv_freq")}
        if unknown := sorted(self._unused - derived - {tied}):
            raise Unsupported(f"it has the unknown tensor {unknown[0]}")

    def _find(self, name: str, *shape: int) -> Tensor:
        if name not in self._file_of_tensor:
            raise Unsupported(f"it has no tensor {name}")
        tensor: Tensor = self._file_of_tensor[name].get_tensor(name)
        if tuple(tensor.shape) != shape or tensor.dtype not in ELEMENT_TYPES:
            raise Unsupported(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {shape}")
        self._unused.discard(name)
        return tensor.contiguous()


@contextmanager
def _open_tensors(folder: Path) -> Iterator[TensorReader]:
    """Open the GGUF file in a folder, or else its safetensors."""
    gguf = gguf_file(folder)
    with ExitStack() as files:
        try:
            yield GgufTensors.open(gguf, folder) if gguf else _SafetensorsReader(folder, files)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise Unsupported(f"its weights cannot be read: {error}") from error


def linear_shapes(config: ModelConfig) -> Mapping[str, tuple[int, int, bool]]:
    """Return a layer's matrices by field of `LayerWeights`: rows, columns, and if it has a bias."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    q_rows = config.num_attention_heads * config.head_dim
    kv_rows = config.num_key_value_heads * config.head_dim
    return {
        "q_proj": (q_rows, hidden, config.qkv_bias),
        "k_proj": (kv_rows, hidden, config.qkv_bias),
        "v_proj": (kv_rows, hidden, config.qkv_bias),
        "o_proj": (hidden, q_rows, config.o_proj_bias),
        "gate_proj": (intermediate, hidden, config.mlp_bias),
        "up_proj": (intermediate, hidden, config.mlp_bias),
        "down_proj": (hidden, intermediate, config.mlp_bias),
    }


def _read_layer(
    config: ModelConfig, layer: str, tensors: TensorReader
) -> LayerWeights[StoredMatrix]:
    names = config.tensor_names

    def linear(field: str) -> StoredMatrix:
        rows, columns, bias = linear_shapes(config)[field]
        name = f"{layer}.{names.linear[field]}"
        matrix = tensors.matrix(f"{name}.weight", rows, columns)
        if not bias:
            return matrix
        return dataclasses.replace(matrix, bias=tensors.vector(f"{name}.bias", rows))

    def norm(field: str) -> Tensor | None:
        if field not in names.norms:
            return None
        return tensors.vector(f"{layer}.{names.norms[field]}.weight", config.hidden_size)

    def qk_norm(name: str, heads: int) -> Tensor | None:
        if config.qk_norm is None:
            return None
        size = config.head_dim * (heads if config.qk_norm == "projection" else 1)
        return tensors.vector(f"{layer}.{name}.weight", size)

    return LayerWeights(
        q_proj=linear("q_proj"),
        k_proj=linear("k_proj"),
        v_proj=linear("v_proj"),
        o_proj=linear("o_proj"),
        gate_proj=linear("gate_proj"),
        up_proj=linear("up_proj"),
        down_proj=linear("down_proj"),
        pre_attention_norm=norm("pre_attention_norm"),
        post_attention_norm=norm("post_attention_norm"),
        pre_mlp_norm=norm("pre_mlp_norm"),
        post_mlp_norm=norm("post_mlp_norm"),
        q_norm=qk_norm(names.q_norm, config.num_attention_heads),
        k_norm=qk_norm(names.k_norm, config.num_key_value_heads),
    )
