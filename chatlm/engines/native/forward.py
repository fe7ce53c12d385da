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
    shape: ModelConfig,
    weights: ModelWeights[MatMul],
    memory: KVCache,
    ids: Sequence[int],
    turns: Tensor,
) -> Tensor:
    """Add the tokens to the memory; returns the logits after the last: (vocabulary,), float32.

    Args:
        shape: of the model.
        weights: of the model.
        memory: what was read so far.
        ids: at least one.
        turns: what `angles` gives, for at least all positions the memory will hold.
    """
    tokens, past = len(ids), memory.length
    memory.reserve(past + tokens)
    device = weights.embedding.device
    masked = past > 0 and tokens > 1  # else torch's own mask serves, or none is needed
    seen = None
    if masked:
        seen = torch.ones(tokens, past + tokens, dtype=torch.bool, device=device).tril(past)
    given = torch.tensor(ids, device=device)
    logits = forward(
        shape, weights, given, turns[past : past + tokens], memory.put, seen,
        causal=tokens > 1 and not masked,
    )  # fmt: skip
    memory.length += tokens
    return logits


def forward(
    shape: ModelConfig,
    weights: ModelWeights[MatMul],
    ids: Tensor,
    turns: Tensor,
    put: UpdateCache,
    seen: Tensor | None,
    *,
    causal: bool = False,
) -> Tensor:
    """The logits after the last of some tokens: (vocabulary,), float32.

    Args:
        shape: of the model.
        weights: of the model.
        ids: (tokens,)
        turns: what `angles` gives for their positions: (tokens, head size).
        put: keeps their keys and values.
        seen: which of all keys each token looks at; None for all, or with `causal` for those of
            the tokens before.
    """
    cosines, sines = turns.to(weights.embedding.dtype).chunk(2, dim=-1)
    turn = torch.cat((cosines, cosines), dim=-1), torch.cat((sines, sines), dim=-1)
    stream = weights.embedding[ids]
    for number, layer in enumerate(weights.layers):
        x = rms_norm(stream, layer.attention_norm, shape.epsilon)
        queries, keys, values = (
            _split_heads(project, x, shape.head_size)
            for project in (layer.query, layer.key, layer.value)
        )
        if layer.query_norm is not None and layer.key_norm is not None:
            queries = rms_norm(queries, layer.query_norm, shape.epsilon)
            keys = rms_norm(keys, layer.key_norm, shape.epsilon)
        keys, values = put(number, apply_rope(keys, *turn), values)
        attended = _attention(apply_rope(queries, *turn), keys, values, seen, causal)
        stream = stream + layer.output(attended.transpose(0, 1).reshape(len(ids), -1))
        stream = stream + _mlp(layer, rms_norm(stream, layer.mlp_norm, shape.epsilon))
    return weights.head(rms_norm(stream[-1:], weights.norm, shape.epsilon))[0].float()


def _attention(
    queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, causal: bool
) -> Tensor:
    """What each head's queries, (heads, tokens, size), find; in the same form."""
    heads, tokens, size = queries.shape
    if tokens == 1:  # those of one head of keys read it once, as if they were so many tokens
        queries = queries.reshape(len(keys), -1, size)
    found = scaled_dot_product_attention(
        queries[None], keys[None], values[None],
        attn_mask=seen, is_causal=causal, enable_gqa=len(queries) != len(keys),
    )  # fmt: skip
    return found.reshape(heads, tokens, size)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMS norm over the last dimension, computed in float32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * wide.to(x.dtype)


def _split_heads(project: MatMul, x: Tensor, size: int) -> Tensor:
    """(tokens, hidden) to (heads, tokens, size)."""
    return project(x).view(x.shape[0], -1, size).transpose(0, 1)


def _mlp(layer: LayerWeights[MatMul], x: Tensor) -> Tensor:
    return layer.down(silu(layer.gate(x)) * layer.up(x))
