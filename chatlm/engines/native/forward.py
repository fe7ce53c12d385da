"""Forward pass of a block in torch: prefill, GQA, RMSNorm, MLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from chatlm.engines.native.kv_cache import KVCache
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.rope import apply_rope
from chatlm.engines.native.weights import LayerWeights, MatMul, ModelWeights

UpdateCache = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Keeps a layer's new keys and values, (key heads, tokens, head size); returns all to look at."""


def prefill(
    config: ModelConfig,
    weights: ModelWeights[MatMul],
    kv_cache: KVCache,
    ids: Sequence[int],
    rope: Tensor,
) -> Tensor:
    """Add the tokens to the memory; returns the logits after the last: (vocabulary,), float32.

    Args:
        config: of the model.
        weights: of the model.
        kv_cache: what was read so far.
        ids: at least one.
        rope: what `angles` gives, for at least all positions the memory will hold.
    """
    tokens, past = len(ids), kv_cache.length
    kv_cache.reserve(past + tokens)
    device = weights.embed_tokens.device
    masked = past > 0 and tokens > 1  # else torch's own mask serves, or none is needed
    seen = None
    if masked:
        seen = torch.ones(tokens, past + tokens, dtype=torch.bool, device=device).tril(past)
    given = torch.tensor(ids, device=device)
    logits = forward(
        config, weights, given, rope[past : past + tokens], kv_cache.update, seen,
        causal=tokens > 1 and not masked,
    )  # fmt: skip
    kv_cache.length += tokens
    return logits


def forward(
    config: ModelConfig,
    weights: ModelWeights[MatMul],
    ids: Tensor,
    rope: Tensor,
    update_cache: UpdateCache,
    mask: Tensor | None,
    *,
    causal: bool = False,
) -> Tensor:
    """The logits after the last of some tokens: (vocabulary,), float32.

    Args:
        config: of the model.
        weights: of the model.
        ids: (tokens,)
        rope: what `angles` gives for their positions: (tokens, head size).
        update_cache: keeps their keys and values.
        mask: which of all keys each token looks at; None for all, or with `causal` for those of
            the tokens before.
    """
    cosines, sines = rope.to(weights.embed_tokens.dtype).chunk(2, dim=-1)
    turn = torch.cat((cosines, cosines), dim=-1), torch.cat((sines, sines), dim=-1)
    stream = weights.embed_tokens[ids]
    for number, layer in enumerate(weights.layers):
        x = rms_norm(stream, layer.input_layernorm, config.rms_norm_eps)
        queries, keys, values = (
            _split_heads(project, x, config.head_dim)
            for project in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        if layer.q_norm is not None and layer.k_norm is not None:
            queries = rms_norm(queries, layer.q_norm, config.rms_norm_eps)
            keys = rms_norm(keys, layer.k_norm, config.rms_norm_eps)
        keys, values = update_cache(number, apply_rope(keys, *turn), values)
        attended = _attention(apply_rope(queries, *turn), keys, values, mask, causal)
        stream = stream + layer.o_proj(attended.transpose(0, 1).reshape(len(ids), -1))
        stream = stream + _mlp(
            layer, rms_norm(stream, layer.post_attention_layernorm, config.rms_norm_eps)
        )
    return weights.lm_head(rms_norm(stream[-1:], weights.norm, config.rms_norm_eps))[0].float()


def _attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool
) -> Tensor:
    """What each head's queries, (heads, tokens, size), find; in the same form."""
    heads, tokens, size = queries.shape
    if tokens == 1:  # those of one head of keys read it once, as if they were so many tokens
        queries = queries.reshape(len(keys), -1, size)
    found = scaled_dot_product_attention(
        queries[None], keys[None], values[None],
        attn_mask=mask, is_causal=causal, enable_gqa=len(queries) != len(keys),
    )  # fmt: skip
    return found.reshape(heads, tokens, size)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension, computed in float32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def _split_heads(project: MatMul, x: Tensor, head_dim: int) -> Tensor:
    """(tokens, hidden) to (heads, tokens, size)."""
    return project(x).view(x.shape[0], -1, head_dim).transpose(0, 1)


def _mlp(layer: LayerWeights[MatMul], x: Tensor) -> Tensor:
    return layer.down_proj(silu(layer.gate_proj(x)) * layer.up_proj(x))
