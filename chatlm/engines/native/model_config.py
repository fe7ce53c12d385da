"""Sizes, variants and tensor names of a decoder-only transformer, read by every native decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MAX_HEAD_DIM = 1024
"""A larger head_dim is taken for a damaged config.json."""

LINEAR_MODULES = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}
"""Usual names of a layer's matrices, by field of `LayerWeights`."""

PRE_NORMS = {
    "pre_attention_norm": "input_layernorm",
    "pre_mlp_norm": "post_attention_layernorm",
}
"""Names of the norms of a block that normalizes the inputs of attention and MLP."""

POST_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}
"""Names of the norms of a block that normalizes the outputs of attention and MLP."""


@dataclass(frozen=True)
class TensorNames:
    """Names of a model's tensors, without `.weight` or `.bias`."""

    embed_tokens: str = "model.embed_tokens"
    layers: str = "model.layers"
    norm: str = "model.norm"
    lm_head: str = "lm_head"
    linear: Mapping[str, str] = field(default_factory=lambda: LINEAR_MODULES)
    """A layer's matrices, by field of `LayerWeights`."""
    norms: Mapping[str, str] = field(default_factory=lambda: PRE_NORMS)
    """A layer's norms over the hidden size, by field of `LayerWeights`; one that is missing is not
    part of the block."""
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"


@dataclass(frozen=True)
class ModelConfig:
    """A model's sizes and variants, under the names of the hub's config.json."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    """Each serves `num_attention_heads // num_key_value_heads` query heads."""
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    inv_freq: tuple[float, ...]
    """RoPE frequencies in radians per position: (head_dim // 2,)."""
    qkv_bias: bool = False
    o_proj_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["head", "projection"] | None = None
    """Whether RMSNorm is applied to queries and keys: per head, or over all heads at once."""
    tie_word_embeddings: bool = False
    """Whether the embedding is the output matrix too."""
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    """Scales the outputs of attention and MLP before they are added to the residual stream."""
    attention_multiplier: float | None = None
    """Scales attention scores; None for `head_dim ** -0.5`."""
    logits_scaling: float = 1.0
    """Divides the logits."""
    tensor_names: TensorNames = TensorNames()
