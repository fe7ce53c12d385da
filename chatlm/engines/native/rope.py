"""RoPE: inverse frequencies, scaling, apply_rope."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.model_config import ModelConfig


def inverse_frequencies(config: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    """As transformers computes them, so that angles are the same to the last bit."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    base = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise Unsupported("it turns only a part of each head")
    plain = 1.0 / (base ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim))
    if kind == "default":
        scaled = plain
    elif kind == "linear":
        scaled = plain / rope["factor"]
    elif kind == "llama3":
        scaled = _scale_llama3(plain, rope)
    else:
        raise Unsupported(f"its positions are scaled in the way {kind}")
    return tuple(scaled.tolist())


def _scale_llama3(inv_freq: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Slow turns slowed by `factor`, quick ones kept, those between interpolated."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    length = rope["original_max_position_embeddings"]
    wave = 2 * math.pi / inv_freq
    smooth = (length / wave - low) / (high - low)
    between = (1 - smooth) * inv_freq / factor + smooth * inv_freq
    slowed = torch.where(wave > length / low, inv_freq / factor, inv_freq)
    return torch.where((wave <= length / low) & (wave >= length / high), between, slowed)


def rope_table(config: ModelConfig, positions: int) -> Tensor:
    """Cosines, then sines, of the first positions' angles: (positions, head_size), float32."""
    turns = torch.arange(positions, dtype=torch.float)[:, None] * torch.tensor(config.inv_freq)
    return torch.cat((turns.cos(), turns.sin()), dim=-1)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head's pairs of numbers by their position's angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
