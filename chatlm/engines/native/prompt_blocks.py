"""Read blocks of several prompts at once, so that each matrix is expanded once for all of them.

What a prompt has in common with the beginning of another is copied instead, such as a system
prompt that the replies of a batch share.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor

from chatlm.engines.native.forward import PromptAttention, PromptPart, prefill_together
from chatlm.engines.native.kv_cache import KVCache
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.rope import RopeTables
from chatlm.engines.native.weights import ComputedWeights
from chatlm.engines.prompt_cache import common_prefix_length
from chatlm.engines.torch_threads import single_torch_thread

MAX_TOKENS = 256
"""Of blocks that are read at once, without what is copied. More would save little, and the first
reply would wait."""


@dataclass(eq=False)
class _Block:
    kv_cache: KVCache
    ids: Sequence[int]
    job: _Job | None = None
    """Reads it, since it does not wait any more."""
    logits: Tensor | None = None

    @property
    def text(self) -> list[int]:
        """All tokens up to the block's end; none if those before it are not known."""
        known = self.kv_cache.prompt
        return [*known, *self.ids] if len(known) == self.kv_cache.length else []


class _Job:
    """Reads some blocks layer by layer; each of those who wait for them may advance it."""

    def __init__(self, blocks: Sequence[_Block], steps: Generator[None, None, Tensor]) -> None:
        self._blocks = blocks
        self._steps = steps
        self._texts = [block.text for block in blocks]
        for block in blocks:
            block.job = self

    def advance(self) -> None:
        """Compute one layer; the last one sets the logits."""
        try:
            with torch.inference_mode(), single_torch_thread():
                next(self._steps)
        except StopIteration as end:
            for block, text, logits in zip(self._blocks, self._texts, end.value, strict=True):
                block.logits = logits
                block.kv_cache.prompt = text or block.kv_cache.prompt
        except BaseException:
            for block in self._blocks:
                block.job = None  # the others begin again
            raise


class PromptBlocks:
    """The blocks that are about to be read with one model and one adapter, or without adapter.

    A block waits at its reader's first pause. Who goes on first reads the blocks that wait as
    well; a prompt's results are the same however it is read.

    Args:
        config: of the model, without recurrent layers and mixtures of experts.
        weights: of the model, with the adapter.
        attend: of the model.
    """

    def __init__(
        self, config: ModelConfig, weights: ComputedWeights, attend: PromptAttention
    ) -> None:
        self._config = config
        self._weights = weights
        self._attend = attend
        self._waiting: list[_Block] = []
        self._caches: WeakSet[KVCache] = WeakSet()
        """Those that read blocks."""

    def with_weights(self, weights: ComputedWeights) -> PromptBlocks:
        """Return another one, which shares nothing with this one.

        Args:
            weights: of the same model with an adapter.
        """
        return PromptBlocks(self._config, weights, self._attend)

    def read(
        self, kv_cache: KVCache, ids: Sequence[int], ropes: RopeTables
    ) -> Generator[None, None, Tensor]:
        """Add a block to a KV cache; return the last logits: (vocab_size,), float32.

        Yields once, then after each layer.

        Args:
            kv_cache: with room for the block.
            ids: of the block.
            ropes: of the model, for the positions of all caches.
        """
        block = _Block(kv_cache, ids)
        self._waiting.append(block)
        self._caches.add(kv_cache)
        try:
            yield
            while block.logits is None:
                job = block.job or self._start(block, ropes)
                job.advance()
                if block.logits is None:
                    yield
            return block.logits
        finally:
            if block in self._waiting:
                self._waiting.remove(block)
            block.job = None  # which knows the block: its KV cache is to be freed at once

    def _start(self, first: _Block, ropes: RopeTables) -> _Job:
        chosen: list[_Block] = []
        parts: list[PromptPart] = []
        for block in (first, *(each for each in self._waiting if each is not first)):
            kv_cache, end = block.kv_cache, block.kv_cache.length + len(block.ids)
            source, start = self._find_source(block, chosen)
            if chosen and (
                end > ropes.positions
                or sum(len(part.ids) for part in parts) + end - start > MAX_TOKENS
            ):
                continue
            if source is not None and all(source is not part.kv_cache for part in parts):
                kv_cache.reserve(end)
                for layer in range(len(kv_cache.buffer.layers)):
                    kv_cache.copy_layer(layer, source, kv_cache.length, start)
                source = None
            chosen.append(block)
            parts.append(PromptPart(kv_cache, block.ids[start - end :], start, source))
        self._waiting = [block for block in self._waiting if block not in chosen]
        steps = prefill_together(self._config, self._weights, parts, ropes, self._attend)
        return _Job(chosen, steps)

    def _find_source(self, block: _Block, chosen: Sequence[_Block]) -> tuple[KVCache | None, int]:
        """Return what has read the beginning of a block, or will have, and up to which position.

        The last token is always left, since its logits are wanted.

        Args:
            block: of a prompt.
            chosen: blocks that are read before.
        """
        text, start = block.text, block.kv_cache.length
        known = [(cache, cache.prompt) for cache in self._caches]
        known += [(earlier.kv_cache, earlier.text) for earlier in chosen]
        source = None
        for cache, other in known:
            common = min(common_prefix_length(other, text), len(text) - 1)
            if common > start:
                source, start = cache, common
        return source, start
