"""What a Llama-type model is made of, from its config.json; it reads no weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatlm.engines.model import Unsuitable

LARGEST_HEAD = 1024
"""Numbers that one attention head may have."""


@dataclass(frozen=True)
class Shape:
    """Sizes and variants of one model."""

    layers: int
    hidden: int
    heads: int
    key_heads: int
    """Heads of keys and values; each serves `heads // key_heads` heads of queries."""
    head_size: int
    inner: int
    """Width between the MLP's matrices."""
    vocabulary: int
    context: int
    """Positions the model was made for."""
    epsilon: float
    frequencies: tuple[float, ...]
    """Radians a position turns each pair of a head's numbers by; `head_size // 2` of them."""
    query_bias: bool
    """Of queries, keys and values."""
    output_bias: bool
    mlp_bias: bool
    head_norm: bool
    """Whether each head's queries and keys are normalized."""
    tied: bool
    """Whether the embedding is the output matrix too."""


def read_shape(folder: Path) -> Shape:
    """The shape of the model in a folder.

    Raises:
        Unsuitable: it is of another architecture, or of a variant that is not known here.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return _shape(config)
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError, OverflowError) as error:
        raise Unsuitable(f"config.json: {type(error).__name__}: {error}") from error


def _shape(config: Mapping[str, Any]) -> Shape:
    kind = config["model_type"]
    if kind not in ("llama", "mistral", "qwen2", "qwen3"):
        raise Unsuitable(f"the architecture {kind} is not known here")
    if config.get("quantization_config"):
        raise Unsuitable("its weights are stored quantized")
    if config["hidden_act"] != "silu":
        raise Unsuitable(f"its activation is {config['hidden_act']}")
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    context = int(config["max_position_embeddings"])
    if _window(kind, config) < context:
        raise Unsuitable("its attention has a sliding window")
    head_size = int(config.get("head_dim") or (128 if kind == "qwen3" else hidden // heads))
    if not 2 <= head_size <= LARGEST_HEAD:
        raise Unsuitable(f"its heads have the size {head_size}")
    bias = kind in ("llama", "qwen3") and bool(config.get("attention_bias", False))
    shape = Shape(
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        heads=heads,
        key_heads=int(config.get("num_key_value_heads") or _key_heads(kind, heads)),
        head_size=head_size,
        inner=int(config["intermediate_size"]),
        vocabulary=int(config["vocab_size"]),
        context=context,
        epsilon=float(config["rms_norm_eps"]),
        frequencies=_frequencies(config, head_size),
        query_bias=bias or kind == "qwen2",
        output_bias=bias,
        mlp_bias=kind == "llama" and bool(config.get("mlp_bias", False)),
        head_norm=kind == "qwen3",
        tied=bool(config.get("tie_word_embeddings", False)),
    )
    sizes = (shape.layers, hidden, heads, shape.key_heads, shape.inner, context)
    if min(*sizes, shape.vocabulary) < 1 or heads % shape.key_heads or head_size % 2:
        raise Unsuitable("its sizes do not fit together")
    return shape


def _key_heads(kind: str, heads: int) -> int:
    if kind == "llama":
        return heads
    raise Unsuitable("its config.json leaves num_key_value_heads open")


def _window(kind: str, config: Mapping[str, Any]) -> float:
    """Tokens that attention looks back."""
    if "sliding_attention" in (config.get("layer_types") or ()):
        return 0
    if kind == "llama" or (kind != "mistral" and not config.get("use_sliding_window", False)):
        return math.inf
    window = config.get("sliding_window", 4096)
    return math.inf if window is None else int(window)


def _frequencies(config: Mapping[str, Any], head_size: int) -> tuple[float, ...]:
    """As transformers computes them, so that angles are the same to the last bit."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    base = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise Unsuitable("it turns only a part of each head")
    plain = 1.0 / (base ** (torch.arange(0, head_size, 2, dtype=torch.float) / head_size))
    if kind == "default":
        scaled = plain
    elif kind == "linear":
        scaled = plain / rope["factor"]
    elif kind == "llama3":
        scaled = _llama3(plain, rope)
    else:
        raise Unsuitable(f"its positions are scaled in the way {kind}")
    return tuple(scaled.tolist())


def _llama3(plain: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Slow turns slowed by `factor`, quick ones kept, those between interpolated."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    length = rope["original_max_position_embeddings"]
    wave = 2 * math.pi / plain
    smooth = (length / wave - low) / (high - low)
    between = (1 - smooth) * plain / factor + smooth * plain
    slowed = torch.where(wave > length / low, plain / factor, plain)
    return torch.where((wave <= length / low) & (wave >= length / high), between, slowed)


def angles(shape: Shape, positions: int) -> Tensor:
    """Cosines, then sines, of the first positions' angles: (positions, head_size), float32."""
    turns = torch.arange(positions, dtype=torch.float)[:, None] * torch.tensor(shape.frequencies)
    return torch.cat((turns.cos(), turns.sin()), dim=-1)
