"""ModelConfig with the names of the hub's config.json."""

from __future__ import annotations

from dataclasses import dataclass

MAX_HEAD_DIM = 1024
"""Numbers that one attention head may have."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and variants of one model."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    """Heads of keys and values; each serves `heads // key_heads` heads of queries."""
    head_dim: int
    intermediate_size: int
    """Width between the MLP's matrices."""
    vocab_size: int
    max_position_embeddings: int
    """Positions the model was made for."""
    rms_norm_eps: float
    inv_freq: tuple[float, ...]
    """Radians a position turns each pair of a head's numbers by; `head_size // 2` of them."""
    qkv_bias: bool
    """Of queries, keys and values."""
    o_proj_bias: bool
    mlp_bias: bool
    qk_norm: bool
    """Whether each head's queries and keys are normalized."""
    tie_word_embeddings: bool
    """Whether the embedding is the output matrix too."""
