"""Forward pass of a decoder-only transformer in torch, over one token or a block."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from chatlm.engines.native.attention import AttentionConfig, BlockContext, VisibleKeys, attention
from chatlm.engines.native.elementwise import elementwise
from chatlm.engines.native.gated_delta import GatedDeltaConfig, gated_delta_net
from chatlm.engines.native.kv_cache import KVCache
from chatlm.engines.native.layer_inputs import gated_input, layer_inputs
from chatlm.engines.native.mamba import MambaConfig, mamba
from chatlm.engines.native.mlp import dense_mlp
from chatlm.engines.native.model_config import Mixer, ModelConfig
from chatlm.engines.native.moe import MoeConfig, mixture_of_experts
from chatlm.engines.native.norms import rms_norm
from chatlm.engines.native.rope import RopeConfig, RopeTables, Rotation
from chatlm.engines.native.short_conv import ShortConvConfig, short_conv
from chatlm.engines.native.weights import ComputedWeights, LayerWeights, MatMul

KeepHidden = Callable[[Tensor], object]
"""Takes the hidden states of a block."""


class PromptAttention(Protocol):
    """What stores a block's keys and values in a KV cache and attends to it in one call."""

    def __call__(
        self,
        kv_cache: KVCache,
        ropes: RopeTables,
        length: int,
        start: int,
        layer: int,
        queries: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
    ) -> Tensor:
        """Return the attention's output: (tokens, heads * head_dim), float32.

        Args:
            kv_cache: with room for the block.
            ropes: of the model.
            length: of the text, see `RopeTables.rows`.
            start: position of the first query; without keys and values, the block may have
                begun before it.
            layer: index among the layers with attention.
            queries: (tokens, heads * head_dim), without RoPE and a norm of each head.
            keys: (tokens, KV heads * head_dim), likewise; None where an earlier layer has stored
                them.
            values: of the same tokens.
        """
        ...


def prefill(
    config: ModelConfig,
    weights: ComputedWeights,
    kv_cache: KVCache,
    ids: Sequence[int],
    ropes: RopeTables,
    length: int | None = None,
    attend: PromptAttention | None = None,
    *,
    inputs: Tensor | None = None,
    keep: KeepHidden | None = None,
) -> Tensor:
    """Do the same as `prefill_in_parts` at once."""
    return run_to_end(
        prefill_in_parts(
            config, weights, kv_cache, ids, ropes, length, attend, inputs=inputs, keep=keep
        )
    )


def prefill_in_parts(
    config: ModelConfig,
    weights: ComputedWeights,
    kv_cache: KVCache,
    ids: Sequence[int],
    ropes: RopeTables,
    length: int | None = None,
    attend: PromptAttention | None = None,
    *,
    inputs: Tensor | None = None,
    keep: KeepHidden | None = None,
) -> Generator[None, None, Tensor]:
    """Add a block of tokens to the KV cache; return the last logits: (vocab_size,), float32.

    Yields after each layer. The caller may do something else meanwhile, but not with this cache.

    Args:
        config: of the model.
        weights: of the model.
        kv_cache: with the tokens before.
        ids: at least one.
        ropes: of the model, for at least all positions the cache will hold.
        length: of the text that is read, see `RopeTables.rows`; None if it ends here.
        attend: of the model, in place of torch.
        inputs: what enters the first layer in place of the embeddings: (tokens, hidden_size).
        keep: see `layer_by_layer`.
    """
    tokens, past = len(ids), kv_cache.length
    kv_cache.reserve(past + tokens)
    device = kv_cache.device
    if length is None:
        length = past + tokens
    own_ids = torch.tensor(ids, device=device)
    embeddings = weights.embed_tokens(own_ids) if inputs is None else inputs
    rotations = Rotations(config.ropes, ropes.rows(past, tokens, length), embeddings.dtype)
    context = _CachedBlock(kv_cache, tokens, rotations)
    if attend is not None:
        text_length = length

        def attend_last(layer: int, queries: Tensor, *kv: Tensor | None) -> Tensor:
            start = past + tokens - len(queries)
            return attend(kv_cache, ropes, text_length, start, layer, queries, *kv)

        context.attend = attend_last
    logits = yield from layer_by_layer(config, weights, own_ids, embeddings, context, keep=keep)
    kv_cache.length += tokens
    kv_cache.recurrent.length = kv_cache.length
    return logits[0]


@dataclass(frozen=True)
class PromptPart:
    """The tokens of one sequence that are read together with those of others."""

    kv_cache: KVCache
    ids: Sequence[int]
    """At least one."""
    start: int
    """Position of the first of them."""
    source: KVCache | None = None
    """The cache of an earlier part, which has the same tokens between the end of `kv_cache` and
    `start`: what is stored of them is copied. None if it is there already."""

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + len(self.ids)


def prefill_together(
    config: ModelConfig,
    weights: ComputedWeights,
    parts: Sequence[PromptPart],
    ropes: RopeTables,
    attend: PromptAttention,
) -> Generator[None, None, Tensor]:
    """Do the same for several sequences: (sequences, vocab_size).

    There must be no recurrent layer.
    """
    lengths = [len(part.ids) for part in parts]
    for part in parts:
        part.kv_cache.reserve(part.end)

    def attend_each(layer: int, queries: Tensor, *kv: Tensor | None) -> Tensor:
        counts = lengths if len(queries) == len(ids) else [1] * len(lengths)
        nothing = (None,) * len(lengths)
        vectors = (nothing if each is None else each.split(counts) for each in (queries, *kv))
        outputs = []
        for part, *own in zip(parts, *vectors, strict=True):
            cache = part.kv_cache
            if part.source is not None and kv[0] is not None:
                number = config.kv_indices[layer]
                cache.copy_layer(number, part.source, cache.length, part.start)
            outputs.append(attend(cache, ropes, part.end, part.end - len(own[0]), layer, *own))
        return torch.cat(outputs)

    ids = torch.tensor([token for part in parts for token in part.ids])
    embeddings = weights.embed_tokens(ids)
    context = _CachedBlock(parts[0].kv_cache, len(ids), Rotations((), (), embeddings.dtype))
    context.attend = attend_each
    ends = tuple(itertools.accumulate(lengths))
    logits = yield from layer_by_layer(config, weights, ids, embeddings, context, ends)
    for part in parts:
        part.kv_cache.length = part.kv_cache.recurrent.length = part.end
    return logits


def forward(
    config: ModelConfig,
    weights: ComputedWeights,
    ids: Tensor,
    embeddings: Tensor,
    context: BlockContext,
) -> Tensor:
    """Return the logits after the last token as `layer_by_layer` does."""
    return run_to_end(layer_by_layer(config, weights, ids, embeddings, context))[0]


def run_to_end(steps: Generator[None, None, Tensor]) -> Tensor:
    """Run a generator and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Tensor = end.value
            return result


def layer_by_layer(
    config: ModelConfig,
    weights: ComputedWeights,
    ids: Tensor,
    embeddings: Tensor,
    context: BlockContext,
    ends: Sequence[int] | None = None,
    keep: KeepHidden | None = None,
) -> Generator[None, None, Tensor]:
    """Return the logits at some ends: (ends, vocab_size), float32. Yields after each layer.

    Args:
        config: of the model.
        weights: of the model.
        ids: of the block's tokens.
        embeddings: of the block, in the dtype of the computation: (tokens, hidden_size).
        context: of the block.
        ends: numbers of tokens after whose last the logits are returned; None for all alone.
        keep: called with what leaves the last layer, before the norm: (tokens, hidden_size).
    """
    dtype, eps = embeddings.dtype, config.rms_norm_eps
    # many additions, each of which would be rounded
    residual = _scale(embeddings.float(), config.embedding_multiplier)
    inputs: Tensor | None = None
    if config.layer_inputs is not None and weights.layer_inputs is not None:
        inputs = layer_inputs(
            config.layer_inputs, weights.layer_inputs, ids, residual.to(dtype), eps
        )
    ends = ends or [len(embeddings)]
    attention_indices, state_indices = count(), count()
    for number, (layer, own) in enumerate(zip(config.layers, weights.layers, strict=True)):
        if number == config.storing_layers and context.attend is not None:
            last = torch.tensor(ends) - 1
            residual, ends = residual[last], range(1, len(ends) + 1)
            inputs = None if inputs is None else inputs[:, last]
        norms = own.vectors
        x = rms_norm(residual, norms.get("pre_mixer_norm"), eps, dtype)
        own_indices = attention_indices if layer.attends else state_indices
        x = _mix(layer.mixer, own, x, next(own_indices), context, eps)
        x = rms_norm(x, norms.get("post_mixer_norm"), eps, dtype)
        residual = _add(residual, x, config.residual_multiplier)
        x = rms_norm(residual, norms.get("pre_mlp_norm"), eps, dtype)
        if isinstance(layer.mlp, MoeConfig):
            x = mixture_of_experts(layer.mlp, own, x)
        else:
            x = dense_mlp(layer.mlp, own, x)
        x = rms_norm(x, norms.get("post_mlp_norm"), eps, dtype)
        residual = _add(residual, x, config.residual_multiplier)
        if layer.inputs is not None and inputs is not None:
            x = gated_input(layer.inputs, own, residual.to(dtype), inputs[number], eps)
            residual = _add(residual, x, config.residual_multiplier)
        if layer.is_scaled:
            residual = residual * norms["layer_scale"]
        yield
    if keep is not None:
        keep(residual)
    rows = [residual[end - 1 : end] for end in ends]
    logits = [weights.lm_head(rms_norm(row, weights.norm, eps, dtype)).float() for row in rows]
    return scale_logits(config, torch.cat(logits))


def _mix(
    mixer: Mixer,
    weights: LayerWeights[MatMul],
    x: Tensor,
    index: int,
    context: BlockContext,
    eps: float,
) -> Tensor:
    """Return a mixer's output; `index` is that among the layers with attention, or without."""
    match mixer:
        case AttentionConfig():
            return attention(mixer, weights, x, index, context, eps)
        case ShortConvConfig():
            return short_conv(weights, x, context.state(index))
        case GatedDeltaConfig():
            return gated_delta_net(mixer, weights, x, context.state(index), eps)
        case MambaConfig():
            return mamba(mixer, weights, x, context.state(index), eps)


def scale_logits(config: ModelConfig, logits: Tensor) -> Tensor:
    """Apply the model's scaling and limit to the products of its output matrix."""
    if config.logits_scaling != 1.0:
        logits = logits / config.logits_scaling
    cap = config.final_logit_softcapping
    return logits if cap is None else cap * torch.tanh(logits / cap)


class Rotations:
    """The angles of a block's positions, for each RoPE of a model.

    Args:
        ropes: of the model.
        rows: of their tables.
        dtype: of the computation.
    """

    def __init__(
        self, ropes: Sequence[RopeConfig], rows: Sequence[Tensor], dtype: torch.dtype
    ) -> None:
        self._ropes = ropes
        self._rotations = [
            Rotation.from_rows(rope, own.to(dtype)) for rope, own in zip(ropes, rows, strict=True)
        ]

    def of(self, rope: RopeConfig) -> Rotation:
        """Return those of one RoPE."""
        return self._rotations[self._ropes.index(rope)]


class _CachedBlock:
    """A block of tokens that is added to a KV cache, see `BlockContext`."""

    def __init__(self, kv_cache: KVCache, tokens: int, rotations: Rotations) -> None:
        self._kv_cache = kv_cache
        self._tokens = tokens
        self.rotation: Callable[[RopeConfig], Rotation] = rotations.of
        self.store = kv_cache.update
        self.attend: Callable[[int, Tensor, Tensor | None, Tensor | None], Tensor] | None = None
        self.state = kv_cache.recurrent.layers.__getitem__
        self._visible: dict[int | None, VisibleKeys] = {}

    def load(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values up to the block's end."""
        return self._kv_cache.load(layer, self._kv_cache.length + self._tokens, dtype)

    def visible_keys(self, window: int | None) -> VisibleKeys:
        """Return what the block's tokens attend to."""
        if window is not None and self._kv_cache.length + self._tokens <= window:
            window = None
        if window not in self._visible:
            self._visible[window] = self._find_visible(window)
        return self._visible[window]

    def _find_visible(self, window: int | None) -> VisibleKeys:
        tokens, past = self._tokens, self._kv_cache.length
        first = 0 if window is None else max(0, past + 1 - window)
        if tokens == 1:
            return VisibleKeys(first)
        if past == 0 and window is None:  # torch's own causal mask does
            return VisibleKeys(causal=True)
        keys = past + tokens - first
        mask = torch.ones(tokens, keys, dtype=torch.bool, device=self._kv_cache.device)
        mask = mask.tril(past - first)
        if window is not None:
            mask = mask.triu(past - first - window + 1)
        return VisibleKeys(first, mask)


def _add(residual: Tensor, x: Tensor, multiplier: float) -> Tensor:
    if compiled := elementwise(residual, x):
        compiled.add_to_residual(residual, x, multiplier)
        return residual
    return residual + _scale(x, multiplier)


def _scale(x: Tensor, multiplier: float) -> Tensor:
    return x if multiplier == 1.0 else x * multiplier
