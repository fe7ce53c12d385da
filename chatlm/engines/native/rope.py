"""Rotary position embeddings (RoPE): frequencies, their scaling, and the rotation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.model_config import ModelConfig


def inverse_frequencies(config: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    """Return a model's RoPE frequencies, bit for bit as transformers computes them.

    Args:
        config: values of config.json.
        head_dim: of the model.

    Raises:
        Unsupported: the frequencies are scaled in another way, or only a part of a head rotates.
    """
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    base = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise Unsupported("its RoPE rotates only a part of each head")
    inv_freq = 1.0 / (base ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim))
    if kind == "default":
        scaled = inv_freq
    elif kind == "linear":
        scaled = inv_freq / rope["factor"]
    elif kind == "llama3":
        scaled = _scale_llama3(inv_freq, rope)
    else:
        raise Unsupported(f"its RoPE scaling is {kind}")
    return tuple(scaled.tolist())


def _scale_llama3(inv_freq: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Divide low frequencies by `factor`, keep high ones, and interpolate between them."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    length = rope["original_max_position_embeddings"]
    wavelength = 2 * math.pi / inv_freq
    smooth = (length / wavelength - low) / (high - low)
    interpolated = (1 - smooth) * inv_freq / factor + smooth * inv_freq
    scaled = torch.where(wavelength > length / low, inv_freq / factor, inv_freq)
    is_medium = (wavelength <= length / low) & (wavelength >= length / high)
    return torch.where(is_medium, interpolated, scaled)


def rope_table(config: ModelConfig, positions: int) -> Tensor:
    """Return cosines, then sines, of the first positions: (positions, head_dim), float32."""
    angles = torch.arange(positions, dtype=torch.float)[:, None] * torch.tensor(config.inv_freq)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys, (heads, tokens, head_dim), by the angles of their positions."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
