"""Reuse the KV caches of earlier prompts, so that a turn reads only what is new.

In bfloat16, results depend on how many tokens are read at once. Prompts are therefore read in
blocks at fixed positions, and only whole blocks are reused: a warm cache gives the same logits as
a cold one, and a seed the same reply.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence

from torch import Tensor

from chatlm.engines.image_ids import find_images
from chatlm.engines.model import (
    ANY_BLOCKS,
    BlockRules,
    GrowingCache,
    LanguageModel,
    Model,
    PausingCache,
    SequenceCache,
)


def block_ends(prompt_length: int, device_type: str, rules: BlockRules = ANY_BLOCKS) -> list[int]:
    """Return where the blocks of a prompt end: large ones for speed, then small ones for reuse.

    Args:
        prompt_length: in tokens.
        device_type: type of the torch device.
        rules: of the model.
    """
    if not rules.several:
        return [prompt_length]
    large, small = _block_sizes(device_type, rules)
    whole = prompt_length - prompt_length % large
    ends = [*range(large, whole + 1, large), *range(whole + small, prompt_length, small)]
    if whole != prompt_length:
        ends.append(prompt_length)
    if rules.first_past is not None and rules.first_past < prompt_length:
        ends = [end for end in ends if end > rules.first_past]
    return ends


def _block_sizes(device_type: str, rules: BlockRules) -> tuple[int, int]:
    return rules.sizes or ((256, 64) if device_type == "cpu" else (1024, 128))


def plan_blocks(
    prompt: Sequence[int], device_type: str, rules: BlockRules = ANY_BLOCKS, growth: int = 0
) -> list[int]:
    """Return where the blocks of a prompt end, which may have images.

    An image is never divided, and a block ends with it: so it is read once, whatever follows. After
    it the blocks are counted anew.

    Args:
        prompt: ids, see `chatlm.engines.image_ids`.
        device_type: type of the torch device.
        rules: of the model.
        growth: tokens of text that a longer prompt has besides.
    """
    length = len(prompt) + growth
    units = find_images(prompt) if rules.several else []
    if not units:
        return block_ends(length, device_type, rules)
    large = _block_sizes(device_type, rules)[0]
    ends: list[int] = []
    base = 0
    for unit in units:
        ends += [*range(base + large, unit.start + 1, large), unit.stop]
        base = unit.stop
    ends += [
        base + end for end in block_ends(length - base, device_type, BlockRules(sizes=rules.sizes))
    ]
    if rules.first_past is not None and rules.first_past < length:
        ends = [end for end in ends if end > rules.first_past]
    return ends


def common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:  # much faster than one by one
        return shorter
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return shorter


MAX_CACHED_PROMPTS = 4
"""Limit of stored caches."""


class CachedPrompt:
    """The KV cache of one token sequence, for one model with or without an adapter."""

    def __init__(self, model: LanguageModel, rules: BlockRules = ANY_BLOCKS) -> None:
        self.model = model
        self._rules = rules
        self.reset()

    def reset(self) -> None:
        """Start again with an empty cache."""
        self.cache: SequenceCache = self.model.new_cache()
        self.ids: list[int] = []
        self._block_ends: list[int] = []
        """Ends of the prefilled blocks; later ids were decoded one by one."""
        self._logits: Tensor | None = None
        """Of the last block."""

    def reuse_prefix(self, prompt: Sequence[int]) -> int:
        """Truncate to the blocks that `prompt` shares; return their number of tokens."""
        planned = self._plan_block_ends(prompt)
        blocks = self._count_shared_blocks(prompt, planned)
        if blocks == len(planned) and (blocks != len(self._block_ends) or self._logits is None):
            blocks -= 1  # the last block gives the logits that choose the first new token
        return self._truncate(planned, blocks)

    def count_shared(self, prompt: Sequence[int]) -> int:
        """Count the tokens that `reuse_prefix` would leave at most."""
        planned = self._plan_block_ends(prompt)
        blocks = self._count_shared_blocks(prompt, planned)
        return planned[blocks - 1] if blocks else 0

    def read_ends(self, *, large: bool) -> list[int]:
        """Return the ends of the blocks that were read and that longer prompts may share.

        Args:
            large: whether to return only those that all longer prompts share.
        """
        return self._lasting(self.ids, self._block_ends, large=large)

    def shared_ends(self, prompt: Sequence[int]) -> list[int]:
        """Return where blocks of a prompt end that a shorter one may have shared."""
        ends = self._plan_block_ends(prompt)
        return self._lasting(prompt, [end for end in ends if end < len(prompt)], large=False)

    def _lasting(self, ids: Sequence[int], ends: Sequence[int], *, large: bool) -> list[int]:
        if not self._rules.several:
            return []
        size = _block_sizes(self.model.device_type, self._rules)[0 if large else 1]
        bases = [0, *(unit.stop for unit in find_images(ids))]
        return [end for end in ends if (end - bases[bisect_right(bases, end) - 1]) % size == 0]

    def restore(self, cache: SequenceCache, ids: Sequence[int], ends: Sequence[int]) -> None:
        """Take a cache that has read lasting blocks.

        Args:
            cache: of this model.
            ids: of the blocks.
            ends: of the blocks.
        """
        self.cache, self.ids, self._block_ends, self._logits = cache, [*ids], [*ends], None

    def read_ahead(self, prompt: Sequence[int], growth: int) -> Iterator[int]:
        """Prefill the blocks of a prompt that a longer one will share.

        Args:
            prompt: ids.
            growth: tokens by which the longer one is longer, at least. What ends elsewhere in it
                is not read, since it would be thrown away.

        Yields:
            Tokens of the prompt read so far.
        """
        ends = self._plan_block_ends(prompt, growth)
        planned = ends[: bisect_right(ends, len(prompt))]
        blocks = self._count_shared_blocks(prompt, planned)
        if blocks < len(planned):
            self._truncate(planned, blocks)
            yield from _without_pauses(self._prefill(prompt, planned))

    def _count_shared_blocks(self, prompt: Sequence[int], planned: Sequence[int]) -> int:
        common = common_prefix_length(self.ids, prompt)
        same = [old == new <= common for old, new in zip(self._block_ends, planned, strict=False)]
        return same.index(False) if False in same else len(same)

    def _truncate(self, planned: Sequence[int], blocks: int) -> int:
        """Drop all but the first blocks; return the number of tokens that are left.

        Args:
            planned: ends of the blocks.
            blocks: the most blocks that can be kept.
        """
        reused = planned[blocks - 1] if blocks else 0
        while len(self.ids) > reused and (kept := self.cache.truncate(reused)) < reused:
            blocks = bisect_right(planned, kept, hi=blocks)
            reused = planned[blocks - 1] if blocks else 0
            del self.ids[kept:]
        if blocks < len(self._block_ends):
            self._logits = None
        del self.ids[reused:], self._block_ends[blocks:]
        return reused

    def prefill(self, prompt: Sequence[int]) -> Iterator[int]:
        """Prefill the rest of the prompt, block by block.

        Yields:
            Tokens of the prompt read so far.
        """
        return _without_pauses(self.prefill_in_parts(prompt))

    def prefill_in_parts(self, prompt: Sequence[int]) -> Iterator[int | None]:
        """Do the same; yield None wherever the cache can pause within a block."""
        return self._prefill(prompt, self._plan_block_ends(prompt))

    def _prefill(self, prompt: Sequence[int], planned: Sequence[int]) -> Iterator[int | None]:
        if isinstance(self.cache, GrowingCache):
            self.cache.reserve(len(prompt))
        for end in planned[len(self._block_ends) :]:
            self._logits = yield from self._prefill_block(prompt[len(self.ids) : end])
            self._block_ends.append(end)
            yield end

    def _plan_block_ends(self, prompt: Sequence[int], growth: int = 0) -> list[int]:
        return plan_blocks(prompt, self.model.device_type, self._rules, growth)

    @property
    def logits(self) -> Tensor:
        """After the last token of the prompt: (vocab_size,)."""
        if self._logits is None:
            raise RuntimeError("no prompt has been read")
        return self._logits

    def rollback(self, count: int) -> None:
        """Drop the newest `count` tokens of the reply, at most `max_draft_tokens`."""
        if not count:
            return
        del self.ids[len(self.ids) - count :]
        if self.cache.truncate(len(self.ids)) != len(self.ids):
            self.reset()
            raise RuntimeError("the cache could not drop a draft")

    @property
    def max_draft_tokens(self) -> int:
        """Limit of a draft, see `LanguageModel`."""
        return self.model.max_draft_tokens

    def _prefill_block(self, ids: Sequence[int]) -> Generator[None, None, Tensor]:
        cache = self.cache
        try:
            if isinstance(cache, PausingCache):
                logits = yield from cache.prefill_in_parts(ids)
            else:
                logits = cache.prefill(ids)
        except BaseException:  # even an interrupt leaves some layers longer than others
            self.reset()
            raise
        self.ids.extend(ids)
        return logits


def _without_pauses(progress: Iterable[int | None]) -> Iterator[int]:
    return (done for done in progress if done is not None)


def decode_batch(
    model: Model, cached_prompts: Sequence[CachedPrompt], ids: Sequence[Sequence[int]]
) -> tuple[Tensor, ...]:
    """Decode new tokens of several sequences in one step.

    Args:
        model: of all of them.
        cached_prompts: of the sequences.
        ids: new tokens of each; at most `Model.max_step_tokens` in total.

    Returns:
        For each sequence the logits after each of its tokens: (tokens, vocab_size).
    """
    try:
        logits = model.decode([each.cache for each in cached_prompts], ids)
    except BaseException:  # even an interrupt leaves some longer than others
        for each in cached_prompts:
            each.reset()
        raise
    for each, own in zip(cached_prompts, ids, strict=True):
        each.ids.extend(own)
    rows: tuple[Tensor, ...] = logits.split([len(own) for own in ids])
    return rows


class PromptCache:
    """The caches that no reply is using, with adapters and without.

    Args:
        max_tokens: limit of tokens in all of them; the newest is stored in any case.
        rules: of the model.
        tokens_per_prompt: added to those of each, for what it takes besides.
    """

    def __init__(
        self, max_tokens: int, rules: BlockRules = ANY_BLOCKS, tokens_per_prompt: int = 0
    ) -> None:
        self._max_tokens = max_tokens
        self._tokens_per_prompt = tokens_per_prompt
        self._rules = rules
        self._entries: list[tuple[str | None, CachedPrompt]] = []
        """With the name of the adapter; the newest last."""

    def acquire(
        self, adapter: str | None, model: LanguageModel, prompt: Sequence[int]
    ) -> CachedPrompt:
        """Take out the cache that shares most of a prompt; the caller releases it.

        Returns an empty one if none has at least half of its tokens, or of the prompt's, in common.

        Args:
            adapter: name; None without one.
            model: with the adapter; caches of an earlier adapter of this name are dropped.
            prompt: ids.
        """
        self._entries = [
            each for each in self._entries if each[0] != adapter or each[1].model is model
        ]
        own = [cached for name, cached in self._entries if name == adapter]
        best = max(
            own,
            key=lambda cached: common_prefix_length(cached.ids, prompt),
            default=CachedPrompt(model, self._rules),
        )
        common = common_prefix_length(best.ids, prompt)
        if 2 * common < min(len(best.ids), len(prompt)):
            return CachedPrompt(model, self._rules)
        self._entries = [each for each in self._entries if each[1] is not best]
        return best

    def release(self, adapter: str | None, cached_prompt: CachedPrompt) -> None:
        """Store a cache; the least recently used ones are dropped for it."""
        if not cached_prompt.ids:
            return
        self._entries = [*self._entries[1 - MAX_CACHED_PROMPTS :], (adapter, cached_prompt)]
        while len(self._entries) > 1 and self._count_tokens() > self._max_tokens:
            del self._entries[0]

    def _count_tokens(self) -> int:
        return sum(len(cached.ids) + self._tokens_per_prompt for _, cached in self._entries)

    def clear(self) -> None:
        """Drop all caches and free their memory."""
        self._entries.clear()
