"""ModelConfig with the names of the hub's config.json."""

from __future__ import annotations

from dataclasses import dataclass

MAX_HEAD_DIM = 1024
"""Numbers that one attention head may have."""


@dataclass(frozen=True)
class ModelConfig:
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
