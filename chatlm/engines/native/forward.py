"""Forward pass of a decoder-only transformer in torch, over one token or a block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from chatlm.engines.native.kv_cache import KVCache
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.rope import apply_rope
from chatlm.engines.native.weights import ComputedWeights, LayerWeights, MatMul

UpdateCache = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Stores a layer's new keys and values, (KV heads, tokens, head_dim); returns all to attend to."""


def prefill(
    config: ModelConfig,
    weights: ComputedWeights,
    kv_cache: KVCache,
    ids: Sequence[int],
    rope: Tensor,
) -> Tensor:
    """Add a block of tokens to the KV cache; return the last logits: (vocab_size,), float32.

    Args:
        config: of the model.
        weights: of the model.
        kv_cache: with the tokens before.
        ids: at least one.
        rope: see `rope_table`, for at least all positions the cache will hold.
    """
    tokens, past = len(ids), kv_cache.length
    kv_cache.reserve(past + tokens)
    device = rope.device
    mask = None
    if past > 0 and tokens > 1:  # otherwise torch's own causal mask does, or none is needed
        mask = torch.ones(tokens, past + tokens, dtype=torch.bool, device=device).tril(past)
    logits = forward(
        config,
        weights,
        torch.tensor(ids, device=device),
        rope[past : past + tokens],
        kv_cache.update,
        mask,
        causal=tokens > 1 and mask is None,
    )
    kv_cache.length += tokens
    return logits


def forward(
    config: ModelConfig,
    weights: ComputedWeights,
    ids: Tensor,
    rope: Tensor,
    update_cache: UpdateCache,
    mask: Tensor | None,
    *,
    causal: bool = False,
) -> Tensor:
    """Return the logits after the last token: (vocab_size,), float32.

    Args:
        config: of the model.
        weights: of the model.
        ids: (tokens,)
        rope: rows of `rope_table` for their positions: (tokens, head_dim).
        update_cache: stores their keys and values.
        mask: which keys each token attends to; None for all, or with `causal` for earlier ones.
        causal: whether each token attends to itself and the ones before it in the block.
    """
    residual = _scale(weights.embed_tokens(ids), config.embedding_multiplier)
    cosines, sines = rope.to(residual.dtype).chunk(2, dim=-1)
    rotation = torch.cat((cosines, cosines), dim=-1), torch.cat((sines, sines), dim=-1)
    for index, layer in enumerate(weights.layers):
        x = _norm(residual, layer.pre_attention_norm, config)
        x = _attention_block(config, layer, x, rotation, index, update_cache, mask, causal)
        x = _norm(x, layer.post_attention_norm, config)
        residual = residual + _scale(x, config.residual_multiplier)
        x = _mlp(layer, _norm(residual, layer.pre_mlp_norm, config))
        x = _norm(x, layer.post_mlp_norm, config)
        residual = residual + _scale(x, config.residual_multiplier)
    logits = weights.lm_head(rms_norm(residual[-1:], weights.norm, config.rms_norm_eps))[0]
    if config.logits_scaling != 1.0:
        logits = logits / config.logits_scaling
    return logits.float()


def _attention_block(
    config: ModelConfig,
    layer: LayerWeights[MatMul],
    x: Tensor,
    rotation: tuple[Tensor, Tensor],
    index: int,
    update_cache: UpdateCache,
    mask: Tensor | None,
    causal: bool,
) -> Tensor:
    queries, keys, values = layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)
    if config.qk_norm == "projection":
        queries = _norm(queries, layer.q_norm, config)
        keys = _norm(keys, layer.k_norm, config)
    queries, keys, values = (
        _split_heads(states, config.head_dim) for states in (queries, keys, values)
    )
    if config.qk_norm == "head":
        queries = _norm(queries, layer.q_norm, config)
        keys = _norm(keys, layer.k_norm, config)
    keys, values = update_cache(index, apply_rope(keys, *rotation), values)
    attention = _attention(
        apply_rope(queries, *rotation), keys, values, mask, causal, config.attention_multiplier
    )
    return layer.o_proj(attention.transpose(0, 1).reshape(len(x), -1))


def _attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Grouped-query attention: (heads, tokens, head_dim) to the same shape."""
    heads, tokens, head_dim = queries.shape
    if tokens == 1:  # the queries of a KV head become one block, so that its keys are read once
        queries = queries.reshape(len(keys), -1, head_dim)
    out = scaled_dot_product_attention(
        queries[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
        enable_gqa=len(queries) != len(keys),
    )
    return out.reshape(heads, tokens, head_dim)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Apply RMSNorm over the last dimension, computed in float32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def _norm(x: Tensor, weight: Tensor | None, config: ModelConfig) -> Tensor:
    return x if weight is None else rms_norm(x, weight, config.rms_norm_eps)


def _scale(x: Tensor, multiplier: float) -> Tensor:
    return x if multiplier == 1.0 else x * multiplier


def _split_heads(states: Tensor, head_dim: int) -> Tensor:
    """(tokens, heads * head_dim) to (heads, tokens, head_dim)."""
    return states.view(states.shape[0], -1, head_dim).transpose(0, 1)


def _mlp(layer: LayerWeights[MatMul], x: Tensor) -> Tensor:
    return layer.down_proj(silu(layer.gate_proj(x)) * layer.up_proj(x))
