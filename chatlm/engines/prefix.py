"""Keys and values of prompts already read, kept so that the next turn need not read them again.

Arithmetic in bfloat16 depends on how many tokens are read at once. So that a seed gives the same
reply whatever was said before, prompts are read in blocks at fixed positions, and only whole
blocks are reused: every number is the one a fresh start gives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from chatlm.engines.model import Model, Reader

MOST_CACHES = 4
"""Caches kept at once, one an adapter; the least recently used goes first."""


def block_ends(tokens: int, device: str) -> list[int]:
    """Where the blocks of a prompt end: large ones for speed, small ones behind for little loss.

    Args:
        tokens: length of the prompt.
        device: type of the torch device.
    """
    large, small = (256, 64) if device == "cpu" else (1024, 128)
    whole = tokens - tokens % large
    ends = [*range(large, whole + 1, large), *range(whole + small, tokens, small)]
    return ends if whole == tokens else [*ends, tokens]


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids the two begin with in common."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


class KeyValues:
    """The keys and values of one token sequence under one model and adapter."""

    def __init__(self, model: Reader) -> None:
        self.model = model
        self.start_over()

    def start_over(self) -> None:
        """Forget everything."""
        self.cache = self.model.new_cache()
        self.ids: list[int] = []
        self._ends: list[int] = []
        """Where the blocks end that were read; ids behind the last one were added one by one."""
        self._logits: Tensor | None = None
        """What the last block gave."""

    def keep(self, prompt: Sequence[int]) -> int:
        """Forget what is not the beginning of `prompt`, read in its blocks; returns what stays."""
        common = common_prefix(self.ids, prompt)
        wanted = self._wanted(prompt)
        same = [old == new <= common for old, new in zip(self._ends, wanted, strict=False)]
        blocks = same.index(False) if False in same else len(same)
        if blocks == len(wanted) != len(self._ends):
            blocks -= 1  # the last block gives the logits that choose the first new token
        kept = wanted[blocks - 1] if blocks else 0
        if len(self.ids) > kept and not self.cache.cut(kept):
            self.start_over()
            return 0
        if blocks < len(self._ends):
            self._logits = None
        del self.ids[kept:], self._ends[blocks:]
        return kept

    def read(self, prompt: Sequence[int]) -> Iterator[int]:
        """Read what `keep` left unread of the prompt, block by block.

        Yields:
            How many tokens of the prompt are read.
        """
        for end in self._wanted(prompt)[len(self._ends) :]:
            self._logits = self._grown(self.cache.read, prompt[len(self.ids) : end])
            self._ends.append(end)
            yield end

    def _wanted(self, prompt: Sequence[int]) -> list[int]:
        return block_ends(len(prompt), self.model.device_type)

    @property
    def logits(self) -> Tensor:
        """After the last token of the prompt that was read: (vocabulary,)."""
        if self._logits is None:
            raise RuntimeError("no prompt was read")
        return self._logits

    def extend(self, ids: Sequence[int]) -> Tensor:
        """Add tokens of the reply; returns the logits after each: (tokens, vocabulary)."""
        return self._grown(self.cache.extend, ids)

    def drop(self, tokens: int) -> None:
        """Forget so many of the newest tokens of the reply, where `at_once` is above 1."""
        del self.ids[len(self.ids) - tokens :]
        self.cache.cut(len(self.ids))

    @property
    def at_once(self) -> int:
        """See `Reader.at_once`."""
        return self.model.at_once

    def _grown(self, grow: Callable[[Sequence[int]], Tensor], ids: Sequence[int]) -> Tensor:
        try:
            logits = grow(ids)
        except BaseException:  # an interrupt too leaves some layers longer than others
            self.start_over()
            raise
        self.ids.extend(ids)
        return logits


def extend_each(model: Model, keys: Sequence[KeyValues], tokens: Sequence[int]) -> Tensor:
    """Add a token of its own to each of several; returns the logits: (tokens, vocabulary)."""
    try:
        logits = model.extend([each.cache for each in keys], [[token] for token in tokens])
    except BaseException:  # an interrupt too leaves some longer than others
        for each in keys:
            each.start_over()
        raise
    for each, token in zip(keys, tokens, strict=True):
        each.ids.append(token)
    return logits


class PrefixCache:
    """`KeyValues` for each adapter of one model, and for the model without one."""

    def __init__(self) -> None:
        self._held: OrderedDict[str | None, KeyValues] = OrderedDict()

    def take(self, adapter: str | None, model: Reader) -> KeyValues:
        """The adapter's keys and values, empty if it has none yet.

        Args:
            adapter: its name; None without one.
            model: with the adapter; those that another one of this name made are forgotten.
        """
        held = self._held.get(adapter)
        if held is None or held.model is not model:
            held = KeyValues(model)
        self._held[adapter] = held
        self._held.move_to_end(adapter)
        while len(self._held) > MOST_CACHES:
            self._held.popitem(last=False)
        return held

    def clear(self) -> None:
        """Forget everything; frees the memory."""
        self._held.clear()
