"""Keys and values of prompts already read, kept so that the next turn need not read them again.

Arithmetic in bfloat16 depends on how many tokens are read at once. So that a seed gives the same
reply whatever was said before, prompts are read in blocks at fixed positions, only whole blocks
are reused, and the last token is always read alone: every number is the one a fresh start gives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

MOST_CACHES = 4
"""Caches kept at once, one an adapter; the least recently used goes first."""


def block_size(device: torch.device) -> int:
    """Tokens read at once; between two blocks a reply can be stopped."""
    return 128 if device.type == "cpu" else 512


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids the two begin with in common."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


class KeyValues:
    """The keys and values of one token sequence under one model and adapter."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._block = block_size(model.device)
        self._start_over()

    def _start_over(self) -> None:
        self._cache = DynamicCache(config=self._model.config)
        self._ids: list[int] = []
        self._read = 0
        """How many of the ids were read in blocks; the others were added one by one."""

    def keep(self, prompt: Sequence[int]) -> int:
        """Forget what is not the beginning of `prompt`, read in its blocks; returns what stays."""
        body = len(prompt) - 1
        kept = min(common_prefix(self._ids, prompt), self._read, body)
        if not kept == body == self._read:
            kept -= kept % self._block
        if drop := len(self._ids) - kept:
            try:
                self._cache.crop(-drop)
            except (RuntimeError, NotImplementedError):  # a sliding window that has moved on
                self._start_over()
                return 0
            del self._ids[kept:]
        self._read = kept
        return kept

    def read(self, prompt: Sequence[int]) -> Iterator[int]:
        """Read what `keep` left unread of the prompt, all but its last token, block by block.

        Yields:
            How many tokens of the prompt are read.
        """
        body = len(prompt) - 1
        while self._read < body:
            end = min(self._read - self._read % self._block + self._block, body)
            self.extend(prompt[self._read : end])
            self._read = end
            yield end

    def extend(self, ids: Sequence[int]) -> Tensor:
        """Add tokens; returns the logits after the last: (vocabulary,)."""
        try:
            with torch.inference_mode():
                out = self._model(
                    torch.tensor([ids], device=self._model.device),
                    cache=self._cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
        except BaseException:  # an interrupt too leaves some layers longer than others
            self._start_over()
            raise
        self._ids.extend(ids)
        logits: Tensor = out.logits[0, -1]
        return logits


class PrefixCache:
    """`KeyValues` for each adapter of one model, and for the model without one."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._held: OrderedDict[str | None, KeyValues] = OrderedDict()

    def take(self, adapter: str | None) -> KeyValues:
        """The adapter's keys and values, empty if it has none yet."""
        held = self._held.get(adapter) or KeyValues(self._model)
        self._held[adapter] = held
        self._held.move_to_end(adapter)
        while len(self._held) > MOST_CACHES:
            self._held.popitem(last=False)
        return held

    def clear(self) -> None:
        """Forget everything; frees the memory."""
        self._held.clear()
