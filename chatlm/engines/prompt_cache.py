"""Keys and values of prompts already read, kept so that the next turn need not read them again.

Arithmetic in bfloat16 depends on how many tokens are read at once. So that a seed gives the same
reply whatever was said before, prompts are read in blocks at fixed positions, and only whole
blocks are reused: every number is the one a fresh start gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from chatlm.engines.model import LanguageModel, Model


def block_ends(prompt_length: int, device_type: str) -> list[int]:
    """Where the blocks of a prompt end: large ones for speed, small ones behind for little loss.

    Args:
        prompt_length: length of the prompt.
        device_type: type of the torch device.
    """
    large, small = (256, 64) if device_type == "cpu" else (1024, 128)
    whole = prompt_length - prompt_length % large
    ends = [*range(large, whole + 1, large), *range(whole + small, prompt_length, small)]
    return ends if whole == prompt_length else [*ends, prompt_length]


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
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.cache = self.model.new_cache()
        self.ids: list[int] = []
        self._block_ends: list[int] = []
        """Where the blocks end that were read; ids behind the last one were added one by one."""
        self._logits: Tensor | None = None
        """What the last block gave."""

    def reuse_prefix(self, prompt: Sequence[int]) -> int:
        """Forget what is not the beginning of `prompt`, read in its blocks; returns what stays."""
        common = common_prefix_length(self.ids, prompt)
        wanted = self._plan_block_ends(prompt)
        same = [old == new <= common for old, new in zip(self._block_ends, wanted, strict=False)]
        blocks = same.index(False) if False in same else len(same)
        if blocks == len(wanted) != len(self._block_ends):
            blocks -= 1  # the last block gives the logits that choose the first new token
        kept = wanted[blocks - 1] if blocks else 0
        if len(self.ids) > kept and not self.cache.truncate(kept):
            self.reset()
            return 0
        if blocks < len(self._block_ends):
            self._logits = None
        del self.ids[kept:], self._block_ends[blocks:]
        return kept

    def prefill(self, prompt: Sequence[int]) -> Iterator[int]:
        """Read what `keep` left unread of the prompt, block by block.

        Yields:
            How many tokens of the prompt are read.
        """
        for end in self._plan_block_ends(prompt)[len(self._block_ends) :]:
            self._logits = self._prefill_block(prompt[len(self.ids) : end])
            self._block_ends.append(end)
            yield end

    def _plan_block_ends(self, prompt: Sequence[int]) -> list[int]:
        return block_ends(len(prompt), self.model.device_type)

    @property
    def logits(self) -> Tensor:
        """After the last token of the prompt that was read: (vocabulary,)."""
        if self._logits is None:
            raise RuntimeError("no prompt was read")
        return self._logits

    def rollback(self, count: int) -> None:
        """Forget so many of the newest tokens of the reply, where `at_once` is above 1."""
        del self.ids[len(self.ids) - count :]
        self.cache.truncate(len(self.ids))

    @property
    def max_step_tokens(self) -> int:
        """See `Reader.at_once`."""
        return self.model.max_step_tokens

    def _prefill_block(self, ids: Sequence[int]) -> Tensor:
        try:
            logits = self.cache.prefill(ids)
        except BaseException:  # an interrupt too leaves some layers longer than others
            self.reset()
            raise
        self.ids.extend(ids)
        return logits


def decode_batch(
    model: Model, cached_prompts: Sequence[CachedPrompt], ids: Sequence[Sequence[int]]
) -> tuple[Tensor, ...]:
    """Add tokens of its own to each of several.

    Args:
        model: of all of them.
        cached_prompts: to add to.
        ids: for each of them; at most `Model.at_once` in all.

    Returns:
        For each of them the logits after each of its tokens: (tokens, vocabulary).
    """
    try:
        logits = model.decode([each.cache for each in cached_prompts], ids)
    except BaseException:  # an interrupt too leaves some longer than others
        for each in cached_prompts:
            each.reset()
        raise
    for each, own in zip(cached_prompts, ids, strict=True):
        each.ids.extend(own)
    rows: tuple[Tensor, ...] = logits.split([len(own) for own in ids])
    return rows


class PromptCache:
    """`KeyValues` that no reply is growing on, with adapters and without.

    Args:
        max_tokens: tokens that all of them may hold; the newest is kept in any case.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._entries: list[tuple[str | None, CachedPrompt]] = []
        """By adapter; the newest last."""

    def acquire(
        self, adapter: str | None, model: LanguageModel, prompt: Sequence[int]
    ) -> CachedPrompt:
        """The adapter's keys and values that hold most of a prompt; the caller's until given back.

        Where none begin much like it, as those of the same chat do, they are empty.

        Args:
            adapter: its name; None without one.
            model: with the adapter; those that another one of this name made are forgotten.
            prompt: ids.
        """
        self._entries = [
            each for each in self._entries if each[0] != adapter or each[1].model is model
        ]
        own = [keys for name, keys in self._entries if name == adapter]
        best = max(
            own,
            key=lambda keys: common_prefix_length(keys.ids, prompt),
            default=CachedPrompt(model),
        )
        common = common_prefix_length(best.ids, prompt)
        if 2 * common < min(len(best.ids), len(prompt)):
            return CachedPrompt(model)
        self._entries = [each for each in self._entries if each[1] is not best]
        return best

    def release(self, adapter: str | None, cached_prompt: CachedPrompt) -> None:
        """Keep them; those that were not used for longest are forgotten for it."""
        self._entries = [*self._entries[1 - MAX_CACHED_PROMPTS :], (adapter, cached_prompt)]
        while (
            len(self._entries) > 1
            and sum(len(cached_prompt.ids) for _, cached_prompt in self._entries) > self._max_tokens
        ):
            del self._entries[0]

    def clear(self) -> None:
        """Forget everything; frees the memory."""
        self._entries.clear()
