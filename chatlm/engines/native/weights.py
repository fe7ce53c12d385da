"""Layer weights from safetensors, shapes checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.model_config import ModelConfig

_SUPPORTED_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


MatMul = Callable[[Tensor], Tensor]
"""Of a matrix, (rows, columns), with vectors: (…, columns) to (…, rows)."""


@dataclass(frozen=True)
class Linear:
    """A matrix, (rows, columns), and what is added to its product, (rows,)."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        return torch.nn.functional.linear(x, self.weight, self.bias)


Matrix = TypeVar("Matrix", bound=MatMul, covariant=True)


@dataclass(frozen=True)
class LayerWeights(Generic[Matrix]):
    """One layer's tensors."""

    input_layernorm: Tensor
    q_proj: Matrix
    k_proj: Matrix
    v_proj: Matrix
    q_norm: Tensor | None
    k_norm: Tensor | None
    o_proj: Matrix
    post_attention_layernorm: Tensor
    gate_proj: Matrix
    up_proj: Matrix
    down_proj: Matrix


@dataclass(frozen=True)
class ModelWeights(Generic[Matrix]):
    """All tensors of a model, in one number format."""

    embed_tokens: Tensor
    """(vocabulary, hidden)"""
    layers: tuple[LayerWeights[Matrix], ...]
    norm: Tensor
    lm_head: Matrix


def read_weights(
    folder: Path, config: ModelConfig, dtype: torch.dtype, device: str = "cpu"
) -> ModelWeights[Linear]:
    """The weights; on the CPU those that have the number format stay in the file until used.

    Raises:
        Unsuitable: a tensor is missing, has another size, or is in no known number format.
    """
    with ExitStack() as files:
        try:
            return _assemble(config, _open_tensors(folder, files, dtype, device))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise Unsupported(f"its weights cannot be read: {error}") from error


def _open_tensors(
    folder: Path, files: ExitStack, dtype: torch.dtype, device: str
) -> Callable[..., Tensor]:
    """Gives a tensor of the folder by its name, once it has the size that is asked for."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    holders = {}
    for name in names:
        file = files.enter_context(safe_open(folder / name, framework="pt"))
        holders.update(dict.fromkeys(file.keys(), file))

    def find(name: str, *size: int) -> Tensor:
        if name not in holders:
            raise Unsupported(f"it has no tensor {name}")
        tensor: Tensor = holders[name].get_tensor(name)
        if tuple(tensor.shape) != size or tensor.dtype not in _SUPPORTED_DTYPES:
            raise Unsupported(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {size}")
        return tensor.to(device, dtype).contiguous()

    return find


def _assemble(config: ModelConfig, find: Callable[..., Tensor]) -> ModelWeights[Linear]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )

    def linear(name: str, rows: int, columns: int, *, bias: bool) -> Linear:
        return Linear(
            find(f"{name}.weight", rows, columns), find(f"{name}.bias", rows) if bias else None
        )

    def layer(number: int) -> LayerWeights[Linear]:
        own = f"model.layers.{number}"
        attention, mlp = f"{own}.self_attn", f"{own}.mlp"
        head_norms = [
            find(f"{attention}.{name}.weight", config.head_dim) if config.qk_norm else None
            for name in ("q_norm", "k_norm")
        ]
        return LayerWeights(
            input_layernorm=find(f"{own}.input_layernorm.weight", hidden),
            q_proj=linear(f"{attention}.q_proj", queries, hidden, bias=config.qkv_bias),
            k_proj=linear(f"{attention}.k_proj", keys, hidden, bias=config.qkv_bias),
            v_proj=linear(f"{attention}.v_proj", keys, hidden, bias=config.qkv_bias),
            q_norm=head_norms[0],
            k_norm=head_norms[1],
            o_proj=linear(f"{attention}.o_proj", hidden, queries, bias=config.o_proj_bias),
            post_attention_layernorm=find(f"{own}.post_attention_layernorm.weight", hidden),
            gate_proj=linear(f"{mlp}.gate_proj", inner, hidden, bias=config.mlp_bias),
            up_proj=linear(f"{mlp}.up_proj", inner, hidden, bias=config.mlp_bias),
            down_proj=linear(f"{mlp}.down_proj", hidden, inner, bias=config.mlp_bias),
        )

    embedding = find("model.embed_tokens.weight", config.vocab_size, hidden)
    return ModelWeights(
        embed_tokens=embedding,
        layers=tuple(layer(number) for number in range(config.num_hidden_layers)),
        norm=find("model.norm.weight", hidden),
        lm_head=Linear(embedding)
        if config.tie_word_embeddings
        else linear("lm_head", config.vocab_size, hidden, bias=False),
    )
