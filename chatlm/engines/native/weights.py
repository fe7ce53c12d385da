"""Load a model's weights from safetensors or GGUF and check their shapes."""

from __future__ import annotations

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
from chatlm.hub.weights import gguf_file

_SUPPORTED_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

MatMul = Callable[[Tensor], Tensor]
"""Multiplies a (rows, columns) matrix with vectors: (…, columns) to (…, rows)."""


@dataclass(frozen=True)
class Linear:
    """A (rows, columns) matrix and its optional bias, (rows,)."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, see `MatMul`."""
        return torch.nn.functional.linear(x, self.weight, self.bias)


Matrix = TypeVar("Matrix", bound=MatMul, covariant=True)


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
class ModelWeights(Generic[Matrix]):
    """All tensors of a model, in one dtype."""

    embed_tokens: Tensor
    """(vocab_size, hidden_size)"""
    layers: tuple[LayerWeights[Matrix], ...]
    norm: Tensor
    lm_head: Matrix


FindTensor = Callable[..., Tensor]
"""Return the tensor of a name, if it has the given shape."""


def read_weights(
    folder: Path, config: ModelConfig, dtype: torch.dtype, device: str = "cpu"
) -> ModelWeights[Linear]:
    """Load the weights; on the CPU, tensors already in `dtype` stay memory-mapped.

    Raises:
        Unsupported: a tensor is missing, unknown, has another shape, or an unsupported dtype.
    """
    with _open_tensors(folder, dtype, device) as tensors:
        find = tensors.find
        names = config.tensor_names
        embedding = find(f"{names.embed_tokens}.weight", config.vocab_size, config.hidden_size)
        weights = ModelWeights(
            embed_tokens=embedding,
            layers=tuple(
                _read_layer(config, f"{names.layers}.{number}", find)
                for number in range(config.num_hidden_layers)
            ),
            norm=find(f"{names.norm}.weight", config.hidden_size),
            lm_head=Linear(embedding)
            if config.tie_word_embeddings
            else Linear(find(f"{names.lm_head}.weight", config.vocab_size, config.hidden_size)),
        )
        tensors.check_all_used(f"{names.lm_head}.weight" if config.tie_word_embeddings else "")
        return weights


class _Tensors:
    """The tensors in a model's safetensors files.

    Args:
        folder: of the model.
        files: closes them.
        dtype: of the tensors returned.
        device: of the tensors returned.
    """

    def __init__(self, folder: Path, files: ExitStack, dtype: torch.dtype, device: str) -> None:
        self._dtype = dtype
        self._device = device
        index = folder / "model.safetensors.index.json"
        names = ["model.safetensors"]
        if index.is_file():
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        self._file_of_tensor: dict[str, Any] = {}
        for name in names:
            file = files.enter_context(safe_open(folder / name, framework="pt"))
            self._file_of_tensor.update(dict.fromkeys(file.keys(), file))
        self._unused = set(self._file_of_tensor)

    def find(self, name: str, *shape: int) -> Tensor:
        """Return the tensor of a name, if it has this shape."""
        if name not in self._file_of_tensor:
            raise Unsupported(f"it has no tensor {name}")
        tensor: Tensor = self._file_of_tensor[name].get_tensor(name)
        if tuple(tensor.shape) != shape or tensor.dtype not in _SUPPORTED_DTYPES:
            raise Unsupported(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {shape}")
        self._unused.discard(name)
        return tensor.to(self._device, self._dtype).contiguous()

    def check_all_used(self, tied: str) -> None:
        """Refuse tensors that the architecture does not have, such as biases.

        Args:
            tied: name of a copy of the embedding, which is not read.
        """
        derived = {name for name in self._unused if name.endswith("rotary_emb.inv_freq")}
        if unknown := sorted(self._unused - derived - {tied}):
            raise Unsupported(f"it has the unknown tensor {unknown[0]}")


class _GgufTensors:
    """The tensors of a GGUF file, dequantized.

    Args:
        tensors: of the file.
        dtype: of the tensors returned.
        device: of the tensors returned.
    """

    def __init__(self, tensors: GgufTensors, dtype: torch.dtype, device: str) -> None:
        self._tensors = tensors
        self._dtype = dtype
        self._device = device
        self.check_all_used = tensors.check_all_used

    def find(self, name: str, *shape: int) -> Tensor:
        """Return the tensor of a name, if it has this shape."""
        if len(shape) == 1:
            return self._tensors.vector(name, *shape).to(self._device, self._dtype)
        matrix = self._tensors.matrix(name, shape[0], shape[1])
        # rounded as the decoders' packed copies are, so that the prefill computes the same
        return dequantize_matrix(matrix, torch.bfloat16).to(self._device, self._dtype)


@contextmanager
def _open_tensors(
    folder: Path, dtype: torch.dtype, device: str
) -> Iterator[_Tensors | _GgufTensors]:
    if path := gguf_file(folder):
        yield _GgufTensors(GgufTensors.open(path, folder), dtype, device)
        return
    with ExitStack() as files:
        try:
            yield _Tensors(folder, files, dtype, device)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise Unsupported(f"its weights cannot be read: {error}") from error


def _linear_shapes(config: ModelConfig) -> Mapping[str, tuple[int, int, bool]]:
    """Return rows, columns and bias of a layer's matrices, by field of `LayerWeights`."""
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


def _read_layer(config: ModelConfig, layer: str, find: FindTensor) -> LayerWeights[Linear]:
    names = config.tensor_names

    def linear(field: str) -> Linear:
        rows, columns, bias = _linear_shapes(config)[field]
        name = f"{layer}.{names.linear[field]}"
        return Linear(
            find(f"{name}.weight", rows, columns), find(f"{name}.bias", rows) if bias else None
        )

    def norm(field: str) -> Tensor | None:
        if field not in names.norms:
            return None
        return find(f"{layer}.{names.norms[field]}.weight", config.hidden_size)

    def qk_norm(name: str, heads: int) -> Tensor | None:
        if config.qk_norm is None:
            return None
        size = config.head_dim * (heads if config.qk_norm == "projection" else 1)
        return find(f"{layer}.{name}.weight", size)

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
