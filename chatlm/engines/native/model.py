"""A model of chatlm's own: `forward` prefills blocks, and a `TokenDecoder` decodes tokens."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from chatlm.engines.model import ModelInfo
from chatlm.engines.native.forward import (
    PromptAttention,
    prefill,
    prefill_in_parts,
    run_to_end,
)
from chatlm.engines.native.hidden_states import HiddenStates
from chatlm.engines.native.kv_cache import KVCache, KVFormat, SequenceInput
from chatlm.engines.native.lora import LoraWeights, read_lora, with_lora
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.moe import MoeConfig
from chatlm.engines.native.prompt_blocks import PromptBlocks
from chatlm.engines.native.rope import RopeTables
from chatlm.engines.native.weights import ComputedWeights, MatMul
from chatlm.engines.torch_threads import single_torch_thread

_STEP = 512
"""Tokens that are read again at once, and for which RoPE tables have room when they are made."""


class TokenDecoder(Protocol):
    """What decodes tokens: the C kernel, a CUDA graph or torch."""

    @property
    def max_step_tokens(self) -> int:
        """Limit of tokens per decode step, at least 1."""
        ...

    @property
    def kv_dtype(self) -> torch.dtype:
        """The dtype of values in KV caches."""
        ...

    @property
    def prompt_attention(self) -> PromptAttention | None:
        """What attends for a block of a prompt; None for torch."""
        ...

    def pack_adapter(self, lora: LoraWeights) -> Any:
        """Convert an adapter to the form of `SequenceInput.adapter`."""
        ...

    def prompt_matrix(self, matrix: Tensor) -> MatMul:
        """Return what multiplies vectors of a prompt with a further matrix: (rows, columns)."""
        ...

    def settle(self, sequence: SequenceInput) -> None:
        """Read the tokens that `decode` has left out of a sequence's recurrent state into it."""
        ...

    def decode(self, sequences: Sequence[SequenceInput], ropes: RopeTables) -> Tensor:
        """Add tokens to KV caches; return the logits after each: (tokens, vocab_size), float32.

        Several tokens in one step give the same results as one at a time.

        Args:
            sequences: with distinct caches of this model; at most `max_step_tokens` in total.
            ropes: of the model, for all positions of the caches with the new tokens.
        """
        ...


class HiddenStateDecoder(Protocol):
    """A `TokenDecoder` that also gives hidden states."""

    def decode(
        self, sequences: Sequence[SequenceInput], ropes: RopeTables, *, hidden: Tensor
    ) -> Tensor:
        """Do the same as `TokenDecoder.decode`.

        Args:
            sequences: see there.
            ropes: see there.
            hidden: filled with what leaves the last layer, before the norm: (tokens, hidden_size),
                float32.
        """
        ...


class NativeModel:
    """A `chatlm.Model` with chatlm's own forward pass.

    Args:
        config: of the model.
        weights: of the model, as prompts are multiplied with them.
        decoder: of the same model.
        info: facts about it.
        kv_format: of its KV caches.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: ComputedWeights,
        decoder: TokenDecoder,
        info: ModelInfo,
        kv_format: KVFormat = "auto",
    ) -> None:
        self.info = info
        self.config = config
        self.weights = weights
        self.decoder = decoder
        self.kv_format: KVFormat = kv_format
        embedding = weights.embed_tokens(torch.zeros(1, dtype=torch.long))
        self.dtype, self.device = embedding.dtype, embedding.device
        self.device_type = self.device.type
        self._ropes = RopeTables(config.ropes, 0, self.device)
        attend = decoder.prompt_attention
        is_exact = not config.state_shapes and config.long_past is None
        is_exact &= not any(isinstance(layer.mlp, MoeConfig) for layer in config.layers)
        self._hidden_state_decoder: HiddenStateDecoder | None = None
        """Gives the hidden states that its caches keep; None if they keep none."""
        self.prompt_blocks = PromptBlocks(config, weights, attend) if attend and is_exact else None
        """Reads blocks of several prompts at once; None where torch computes parts of them, whose
        bits would depend on that."""

    def keep_hidden_states(self, decoder: HiddenStateDecoder) -> None:
        """Have its caches keep the hidden states of their newest tokens.

        Args:
            decoder: its own.
        """
        self._hidden_state_decoder = decoder

    @property
    def keeps_hidden_states(self) -> bool:
        """Whether its caches keep the hidden states of their newest tokens."""
        return self._hidden_state_decoder is not None

    def new_cache(self) -> NativeCache:
        """Return an empty KV cache."""
        return NativeCache(self, self.weights, self.prompt_blocks)

    def load_adapter(self, folder: Path) -> NativeAdaptedModel:
        """Load a LoRA adapter in peft's format."""
        return NativeAdaptedModel(self, read_lora(folder, self.config, self.dtype, self.device))

    @property
    def max_step_tokens(self) -> int:
        """Limit of tokens per decode step."""
        return self.decoder.max_step_tokens

    @property
    def max_draft_tokens(self) -> int:
        """Limit of a draft."""
        return self.max_step_tokens - 1

    def decode(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> Tensor:
        """Decode new tokens of several caches in one step."""
        if self.config.long_past is not None and any(
            cache.crosses(len(new)) for cache, new in zip(caches, ids, strict=True)
        ):
            return torch.cat([cache.decode_singly(n) for cache, n in zip(caches, ids, strict=True)])
        sequences = [cache.sequence_input(new) for cache, new in zip(caches, ids, strict=True)]
        for cache, new in zip(caches, ids, strict=True):
            cache.remember(new)
        with torch.inference_mode():
            ropes = self.ropes(max(each.kv_cache.length + len(each.tokens) for each in sequences))
            decoder = self._hidden_state_decoder
            if decoder is None:
                return self.decoder.decode(sequences, ropes)
            starts = [each.kv_cache.length for each in sequences]
            hidden = torch.empty(sum(map(len, ids)), self.config.hidden_size)
            logits = decoder.decode(sequences, ropes, hidden=hidden)
            rows = hidden.split([len(new) for new in ids])
            for cache, start, own in zip(caches, starts, rows, strict=True):
                cache.hidden_states.add(start, own)
            return logits

    def ropes(self, positions: int) -> RopeTables:
        """Return the RoPE tables of at least `positions` positions."""
        if positions > self._ropes.positions:
            self._ropes = RopeTables(self.config.ropes, positions + _STEP, self.device)
        return self._ropes


class NativeAdaptedModel:
    """A model with a LoRA adapter, which is not merged into the weights.

    Args:
        model: without the adapter.
        lora: the adapter.
    """

    def __init__(self, model: NativeModel, lora: LoraWeights) -> None:
        self._model = model
        self.device_type = model.device_type
        self.max_step_tokens = model.max_step_tokens
        self.max_draft_tokens = model.max_draft_tokens
        self._weights = with_lora(model.weights, lora, model.decoder.prompt_matrix)
        self._packed_adapter = model.decoder.pack_adapter(lora)
        blocks = model.prompt_blocks
        self.prompt_blocks = None if blocks is None else blocks.with_weights(self._weights)
        """Its own, so that only prompts with this very adapter share what was read."""

    def new_cache(self) -> NativeCache:
        """Return an empty KV cache."""
        return NativeCache(self._model, self._weights, self.prompt_blocks, self._packed_adapter)

    def close(self) -> None:
        """Do nothing: the adapter is freed with its last cache."""


class NativeCache:
    """The KV cache of one token sequence of a `NativeModel`.

    Args:
        model: the model.
        weights: of the model, with an adapter or without.
        prompt_blocks: of the same weights; None if each prompt is read alone.
        packed_adapter: as the decoder's `pack_adapter` returned it.
    """

    def __init__(
        self,
        model: NativeModel,
        weights: ComputedWeights,
        prompt_blocks: PromptBlocks | None,
        packed_adapter: Any = None,
    ) -> None:
        self._model = model
        self._weights = weights
        self._prompt_blocks = prompt_blocks
        self._packed_adapter = packed_adapter
        self._kv_cache = self._new_kv_cache()
        self.hidden_states = HiddenStates()
        """Of the newest tokens, where the model keeps them."""
        self._shorter: KVCache | None = None
        """What was read before the text got longer than `ModelConfig.long_past`."""
        self._ids: list[int] = []
        """All tokens, where positions may be encoded otherwise later."""
        self._is_long = False
        """Whether its positions are encoded as in a text longer than `ModelConfig.long_past`."""

    def _new_kv_cache(self) -> KVCache:
        model = self._model
        dtype, device = model.decoder.kv_dtype, str(model.device)
        return KVCache(model.config, dtype, device, model.kv_format)

    def crosses(self, count: int) -> bool:
        """Tell whether all positions are encoded otherwise once `count` tokens are added."""
        limit, length = self._model.config.long_past, self._kv_cache.length
        return limit is not None and not self._is_long and 0 < length <= limit < length + count

    def remember(self, ids: Sequence[int]) -> None:
        """Keep new tokens, since they may have to be read again."""
        limit = self._model.config.long_past
        if limit is not None:
            self._ids += ids
            self._is_long |= len(self._ids) > limit

    def _cross(self, count: int) -> None:
        """Read the tokens again if their positions are encoded otherwise from now on."""
        if not self.crosses(count):
            return
        model, length = self._model, self._kv_cache.length + count
        self._shorter, self._kv_cache = self._kv_cache, self._new_kv_cache()
        self._is_long = True
        with torch.inference_mode():
            ropes = model.ropes(length)
            for start in range(0, len(self._ids), _STEP):
                block = self._ids[start : start + _STEP]
                prefill(
                    model.config, self._weights, self._kv_cache, block, ropes, length,
                    model.decoder.prompt_attention,
                )  # fmt: skip

    def decode_singly(self, ids: Sequence[int]) -> Tensor:
        """Decode tokens one by one, and read those before again where necessary."""
        rows = []
        for token in ids:
            self._cross(1)
            rows.append(self._model.decode([self], [[token]]))
        return torch.cat(rows)

    def reserve(self, tokens: int) -> None:
        """Make room for so many tokens."""
        self._kv_cache.reserve(tokens)

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Add a block of a prompt; return the last logits."""
        return run_to_end(self.prefill_in_parts(ids))

    def prefill_in_parts(self, ids: Sequence[int]) -> Generator[None, None, Tensor]:
        """Do the same layer by layer; yield after each."""
        model = self._model
        self._cross(len(ids))
        self.remember(ids)
        self._kv_cache.reserve(self._kv_cache.length + len(ids))
        model.decoder.settle(self.sequence_input([]))
        ropes = model.ropes(self._kv_cache.capacity)
        if self._prompt_blocks is not None:
            return (yield from self._prompt_blocks.read(self._kv_cache, ids, ropes))
        start = self._kv_cache.length
        parts = prefill_in_parts(
            model.config, self._weights, self._kv_cache, ids, ropes,
            attend=model.decoder.prompt_attention,
            keep=partial(self.hidden_states.add, start) if model.keeps_hidden_states else None,
        )  # fmt: skip
        while True:
            with torch.inference_mode(), self._torch_threads():
                try:
                    next(parts)
                except StopIteration as end:
                    self._kv_cache.recurrent.save_checkpoint()
                    logits: Tensor = end.value
                    return logits
            yield

    def _torch_threads(self) -> AbstractContextManager[None]:
        """Let torch have all threads only where it computes much itself."""
        is_small = self._model.decoder.prompt_attention is not None and not self.has_state
        return single_torch_thread() if is_small else nullcontext()

    def decode(self, ids: Sequence[int]) -> Tensor:
        """Add generated tokens by the decoder; return the logits after each."""
        return self._model.decode([self], [ids])

    def sequence_input(self, ids: Sequence[int]) -> SequenceInput:
        """Return new tokens as a `TokenDecoder` takes them."""
        return SequenceInput(self._kv_cache, ids, self._packed_adapter)

    def truncate(self, length: int) -> int:
        """Drop all tokens after the first `length`; with recurrent layers, more of them.

        Returns:
            The tokens that are kept.
        """
        limit = self._model.config.long_past
        if limit is not None:
            if length <= limit and self._is_long:
                self._is_long = False
                shorter, self._shorter = self._shorter, None
                self._kv_cache = shorter or self._new_kv_cache()
                length = min(length, self._kv_cache.length)
            del self._ids[length:]
        self._kv_cache.length = self._kv_cache.recurrent.truncate(length)
        del self._kv_cache.prompt[self._kv_cache.length :]
        self.hidden_states.truncate(self._kv_cache.length)
        return self._kv_cache.length

    @property
    def has_state(self) -> bool:
        """Whether there are recurrent layers."""
        return bool(self._kv_cache.recurrent.shapes)

    def read_block(self, start: int, end: int) -> Mapping[str, Tensor]:
        """Return keys and values of some tokens as they are stored."""
        return self._kv_cache.read(start, end)

    def read_state(self, end: int) -> Mapping[str, Tensor] | None:
        """Return the recurrent states at a checkpoint."""
        states = self._kv_cache.recurrent.read_checkpoint(end)
        return None if states is None else {"states": states}

    def restore(
        self,
        ids: Sequence[int],
        ends: Sequence[int],
        blocks: Sequence[Mapping[str, Tensor]],
        state: Mapping[str, Tensor],
    ) -> None:
        """Fill the empty cache."""
        self._kv_cache.reserve(len(ids))
        for (start, end), block in zip(pairwise([0, *ends]), blocks, strict=True):
            self._kv_cache.write(start, end, block)
        self._kv_cache.length = len(ids)
        self._kv_cache.prompt = [*ids]
        if self.has_state:
            self._kv_cache.recurrent.restore(len(ids), state["states"])
