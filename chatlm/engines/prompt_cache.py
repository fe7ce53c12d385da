"""Keys and values of prompts already read, kept so that the next turn need not read them again.

Arithmetic in bfloat16 depends on how many tokens are read at once. So that a seed gives the same
reply whatever was said before, prompts are read in blocks at fixed positions, and only whole
blocks are reused: every number is the one a fresh start gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from chatlm.engines.model import LanguageModel, Model


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


def common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids the two begin with in common."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


MAX_CACHED_PROMPTS = 4
"""Caches that are kept at once."""


class CachedPrompt:
    """The keys and values of one token sequence under one model and adapter."""

    def __init__(self, model: LanguageModel) -> None:
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
        common = common_prefix_length(self.ids, prompt)
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
            self._logits = self._read_block(prompt[len(self.ids) : end])
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

    def drop(self, tokens: int) -> None:
        """Forget so many of the newest tokens of the reply, where `at_once` is above 1."""
        del self.ids[len(self.ids) - tokens :]
        self.cache.cut(len(self.ids))

    @property
    def at_once(self) -> int:
        """See `Reader.at_once`."""
        return self.model.at_once

    def _read_block(self, ids: Sequence[int]) -> Tensor:
        try:
            logits = self.cache.read(ids)
        except BaseException:  # an interrupt too leaves some layers longer than others
            self.start_over()
            raise
        self.ids.extend(ids)
        return logits


def decode_batch(
    model: Model, keys: Sequence[CachedPrompt], ids: Sequence[Sequence[int]]
) -> tuple[Tensor, ...]:
    """Add tokens of its own to each of several.

    Args:
        model: of all of them.
        keys: to add to.
        ids: for each of them; at most `Model.at_once` in all.

    Returns:
        For each of them the logits after each of its tokens: (tokens, vocabulary).
    """
    try:
        logits = model.extend([each.cache for each in keys], ids)
    except BaseException:  # an interrupt too leaves some longer than others
        for each in keys:
            each.start_over()
        raise
    for each, own in zip(keys, ids, strict=True):
        each.ids.extend(own)
    rows: tuple[Tensor, ...] = logits.split([len(own) for own in ids])
    return rows


class PromptCache:
    """`KeyValues` that no reply is growing on, with adapters and without.

    Args:
        most: tokens that all of them may hold; the newest is kept in any case.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: list[tuple[str | None, CachedPrompt]] = []
        """By adapter; the newest last."""

    def take(
        self, adapter: str | None, model: LanguageModel, prompt: Sequence[int]
    ) -> CachedPrompt:
        """The adapter's keys and values that hold most of a prompt; the caller's until given back.

        Where none begin much like it, as those of the same chat do, they are empty.

        Args:
            adapter: its name; None without one.
            model: with the adapter; those that another one of this name made are forgotten.
            prompt: ids.
        """
        self._held = [each for each in self._held if each[0] != adapter or each[1].model is model]
        own = [keys for name, keys in self._held if name == adapter]
        best = max(
            own,
            key=lambda keys: common_prefix_length(keys.ids, prompt),
            default=CachedPrompt(model),
        )
        common = common_prefix_length(best.ids, prompt)
        if 2 * common < min(len(best.ids), len(prompt)):
            return CachedPrompt(model)
        self._held = [each for each in self._held if each[1] is not best]
        return best

    def give(self, adapter: str | None, keys: CachedPrompt) -> None:
        """Keep them; those that were not used for longest are forgotten for it."""
        self._held = [*self._held[1 - MAX_CACHED_PROMPTS :], (adapter, keys)]
        while len(self._held) > 1 and sum(len(keys.ids) for _, keys in self._held) > self._most:
            del self._held[0]

    def clear(self) -> None:
        """Forget everything; frees the memory."""
        self._held.clear()
