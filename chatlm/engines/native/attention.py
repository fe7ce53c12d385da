"""Attention with grouped queries in torch: over all earlier tokens or a sliding window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from chatlm.engines.native.matrix_shape import MatrixShape
from chatlm.engines.native.norms import rms_norm
from chatlm.engines.native.products import multiply_all
from chatlm.engines.native.recurrent_state import LayerState
from chatlm.engines.native.rope import RopeConfig, Rotation, apply_rope
from chatlm.engines.native.weights import LayerWeights, MatMul


@dataclass(frozen=True)
class AttentionConfig:
    """A layer's attention."""

    num_attention_heads: int
    num_key_value_heads: int
    """Each serves `num_attention_heads // num_key_value_heads` query heads."""
    head_dim: int
    rope: RopeConfig | None
    """None for a layer that does not encode positions."""
    scale: float
    """Multiplies the scores, usually `head_dim ** -0.5`."""
    window: int | None = None
    """How many tokens a token attends to, with itself; None for all before it."""
    softcap: float | None = None
    """Scores become `softcap * tanh(score / softcap)`; None for no such limit."""
    qk_norm: Literal["head", "projection"] | None = None
    """Whether RMSNorm is applied to queries and keys: per head, or over all heads at once."""
    qkv_bias: bool = False
    o_proj_bias: bool = False
    output_gate: bool = False
    """Whether the output is multiplied by the sigmoid of a projection of the input."""
    sinks: bool = False
    """Whether each head has a score that takes its share of the attention, but has no value."""
    value_norm: bool = False
    """Whether RMSNorm without weights is applied to the values of each head."""
    values_are_keys: bool = False
    """Whether the values are the keys before norm and RoPE, so that there is no `v_proj`."""
    shares_kv_of: int | None = None
    """An earlier layer whose keys and values it reads, counted among those with attention; None
    for its own."""

    @property
    def projections(self) -> list[str]:
        """The matrices that its input is multiplied with."""
        names = ["q_proj"]
        if self.shares_kv_of is None:
            names += ["k_proj"] if self.values_are_keys else ["k_proj", "v_proj"]
        return names + (["output_gate"] if self.output_gate else [])

    def matrix_shapes(self, hidden_size: int) -> Mapping[str, MatrixShape]:
        """Return its matrices by name."""
        queries = self.num_attention_heads * self.head_dim
        values = self.num_key_value_heads * self.head_dim
        rows = self.head_dim if self.output_gate else 0  # a head's queries, then its gate
        shapes = {
            "q_proj": MatrixShape(queries, hidden_size, self.qkv_bias, rows),
            "k_proj": MatrixShape(values, hidden_size, self.qkv_bias),
            "v_proj": MatrixShape(values, hidden_size, self.qkv_bias),
            "output_gate": MatrixShape(queries, hidden_size, self.qkv_bias, rows),
            "o_proj": MatrixShape(hidden_size, queries, self.o_proj_bias),
        }
        return {name: shapes[name] for name in (*self.projections, "o_proj")}

    def vector_sizes(self) -> Mapping[str, int]:
        """Return the sizes of its vectors by name."""
        sizes = {"sinks": self.num_attention_heads} if self.sinks else {}
        if self.qk_norm == "head":
            sizes |= {"q_norm": self.head_dim, "k_norm": self.head_dim}
        elif self.qk_norm == "projection":
            sizes["q_norm"] = self.num_attention_heads * self.head_dim
            sizes["k_norm"] = self.num_key_value_heads * self.head_dim
        if self.shares_kv_of is not None:
            sizes.pop("k_norm", None)
        return sizes


@dataclass(frozen=True)
class VisibleKeys:
    """Which stored keys the tokens of a block attend to."""

    first: int = 0
    """The first key that any of them sees."""
    mask: Tensor | None = None
    """For the keys from there on: (…, tokens, keys); None for all, or with `causal` for earlier
    ones."""
    causal: bool = False
    """Whether each token attends to itself and the ones before it in the block."""


class BlockContext(Protocol):
    """A block of tokens in its sequence."""

    @property
    def attend(self) -> Callable[[int, Tensor, Tensor | None, Tensor | None], Tensor] | None:
        """What stores keys and values and attends to them in one call; None for torch.

        It takes the layer's index, queries, keys and values, and returns the output; see
        `forward.PromptAttention`.
        """
        ...

    def load(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return all keys and values of a layer whose block is stored, see `store`."""
        ...

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the block's keys and values, (KV heads, tokens, head_dim); return all of them.

        Args:
            layer: index among the layers with attention.
            keys: of the block.
            values: of the block.
        """
        ...

    def visible_keys(self, window: int | None) -> VisibleKeys:
        """Return what the block's tokens attend to."""
        ...

    def rotation(self, rope: RopeConfig) -> Rotation:
        """Return the angles of the block's positions."""
        ...

    def state(self, layer: int) -> LayerState:
        """Return the state before the block, to be changed in place.

        Args:
            layer: index among the recurrent layers.
        """
        ...


def attention(
    config: AttentionConfig,
    weights: LayerWeights[MatMul],
    x: Tensor,
    index: int,
    context: BlockContext,
    eps: float,
) -> Tensor:
    """Return the attention's output for a block: (tokens, hidden_size), as `x`.

    Args:
        config: of the layer.
        weights: of the layer.
        x: its input.
        index: of the layer among those with attention.
        context: of the block.
        eps: of the norms.
    """
    matrices, vectors = weights.matrices, weights.vectors
    names = config.projections
    products = multiply_all([matrices[name] for name in names], x)
    by_name = dict(zip(names, products, strict=True))
    queries, keys = by_name["q_proj"], by_name.get("k_proj")
    values = keys if config.values_are_keys else by_name.get("v_proj")
    if config.qk_norm == "projection":
        queries = rms_norm(queries, vectors["q_norm"], eps, x.dtype)
        keys = None if keys is None else rms_norm(keys, vectors["k_norm"], eps, x.dtype)
    if context.attend is not None:
        out = context.attend(index, queries, keys, values).to(x.dtype)
    else:
        out = _attend_in_torch(config, vectors, queries, keys, values, index, context, eps)
    if config.output_gate:
        out = out * by_name["output_gate"].sigmoid()
    return matrices["o_proj"](out)


def _attend_in_torch(
    config: AttentionConfig,
    vectors: Mapping[str, Tensor],
    queries: Tensor,
    keys: Tensor | None,
    values: Tensor | None,
    index: int,
    context: BlockContext,
    eps: float,
) -> Tensor:
    """Return the output for queries, keys and values: (tokens, heads * head_dim)."""
    dtype = queries.dtype

    def positioned(states: Tensor, norm: str) -> Tensor:
        heads = _split_heads(states, config.head_dim)
        if config.qk_norm == "head":
            heads = rms_norm(heads, vectors[norm], eps, dtype)
        return heads if config.rope is None else apply_rope(heads, context.rotation(config.rope))

    queries = positioned(queries, "q_norm")
    if keys is None or values is None:
        keys, values = context.load(index, dtype)
    else:
        values = _split_heads(values, config.head_dim)
        if config.value_norm:
            values = rms_norm(values, torch.ones_like(values[0, 0]), eps, dtype)
        keys, values = context.store(index, positioned(keys, "k_norm"), values)
    visible = context.visible_keys(config.window)
    if visible.first:
        keys, values = keys[:, visible.first :], values[:, visible.first :]
    keys, values = keys.to(dtype), values.to(dtype)
    if config.softcap is None and not config.sinks:
        out = _attend(config, queries, keys, values, visible)
    else:
        out = _attend_step_by_step(config, queries, keys, values, visible, vectors.get("sinks"))
    return out.transpose(0, 1).flatten(1)


def _attend(
    config: AttentionConfig, queries: Tensor, keys: Tensor, values: Tensor, visible: VisibleKeys
) -> Tensor:
    """Grouped-query attention: (heads, tokens, head_dim) to the same shape."""
    heads, tokens, head_dim = queries.shape
    if tokens == 1:  # the queries of a KV head become one block, so that its keys are read once
        queries = queries.reshape(len(keys), -1, head_dim)
    out = scaled_dot_product_attention(
        queries[None],
        keys[None],
        values[None],
        attn_mask=visible.mask,
        is_causal=visible.causal,
        scale=config.scale,
        enable_gqa=len(queries) != len(keys),
    )
    return out.reshape(heads, tokens, head_dim)


def _attend_step_by_step(
    config: AttentionConfig,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: VisibleKeys,
    sinks: Tensor | None,
) -> Tensor:
    """The same with a limit of the scores or with sinks, which torch's function does not have."""
    heads, tokens, head_dim = queries.shape
    grouped = queries.reshape(len(keys), -1, head_dim)
    scores = (grouped @ keys.transpose(1, 2)).float() * config.scale
    scores = scores.view(heads, tokens, -1)
    if config.softcap is not None:
        scores = config.softcap * torch.tanh(scores / config.softcap)
    mask = visible.mask
    if mask is None and visible.causal:
        mask = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask.reshape(-1, mask.shape[-1]), float("-inf"))
    if sinks is not None:
        extra = sinks.float().view(-1, 1, 1).expand(-1, tokens, -1)
        weights = torch.cat((scores, extra), dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    out = weights.to(values.dtype).view(len(keys), -1, weights.shape[-1]) @ values
    return out.view(heads, tokens, head_dim)


def _split_heads(states: Tensor, head_dim: int) -> Tensor:
    """(tokens, heads * head_dim) to (heads, tokens, head_dim)."""
    return states.view(states.shape[0], -1, head_dim).transpose(0, 1)
