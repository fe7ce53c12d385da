"""Read blocks of several prompts at once, so that each matrix is expanded once for all of them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatlm.engines.native.forward import PromptAttention, prefill_together
from chatlm.engines.native.kv_cache import KVCache
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.rope import RopeTables
from chatlm.engines.native.weights import ComputedWeights
from chatlm.engines.torch_threads import single_torch_thread

MAX_TOKENS = 256
"""Of blocks that are read at once. More would save little, and the first reply would wait."""


@dataclass(eq=False)
class _Block:
    kv_cache: KVCache
    ids: Sequence[int]
    job: _Job | None = None
    """Reads it, since it does not wait any more."""
    logits: Tensor | None = None


class _Job:
    """Reads some blocks layer by layer; each of those who wait for them may advance it."""

    def __init__(self, blocks: Sequence[_Block], steps: Generator[None, None, Tensor]) -> None:
        self._blocks = blocks
        self._steps = steps
        for block in blocks:
            block.job = self

    def advance(self) -> None:
        """Compute one layer; the last one sets the logits."""
        try:
            with torch.inference_mode(), single_torch_thread():
                next(self._steps)
        except StopIteration as end:
            for block, logits in zip(self._blocks, end.value, strict=True):
                block.logits = logits
        except BaseException:
            for block in self._blocks:
                block.job = None  # the others begin again
            raise


class PromptBlocks:
    """The blocks that are about to be read with one model, without adapters.

    A block waits at its reader's first pause. Who goes on first reads the blocks that wait as
    well; a prompt's results are the same however it is read.

    Args:
        config: of the model, without recurrent layers and mixtures of experts.
        weights: of the model.
        attend: of the model.
    """

    def __init__(
        self, config: ModelConfig, weights: ComputedWeights, attend: PromptAttention
    ) -> None:
        self._config = config
        self._weights = weights
        self._attend = attend
        self._waiting: list[_Block] = []

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

    def _start(self, first: _Block, ropes: RopeTables) -> _Job:
        chosen, tokens = [first], len(first.ids)
        for block in self._waiting:
            positions = block.kv_cache.length + len(block.ids)
            if (
                block is not first
                and tokens + len(block.ids) <= MAX_TOKENS
                and positions <= ropes.positions
            ):
                chosen.append(block)
                tokens += len(block.ids)
        self._waiting = [block for block in self._waiting if block not in chosen]
        steps = prefill_together(
            self._config,
            self._weights,
            [block.kv_cache for block in chosen],
            [block.ids for block in chosen],
            ropes,
            self._attend,
        )
        return _Job(chosen, steps)
