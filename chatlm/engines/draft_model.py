"""Speculative decoding with a small model that drafts what a larger one may choose.

Both must have the same vocabulary. The small one chooses like the large one would: with a copy of
the reply's sampler, random numbers included. So a draft is likely to be accepted at any
temperature, and whatever it is, the reply is the large model's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from torch import Tensor
from torch.nn.functional import pad

from chatlm.engines.draft_length import DraftLength
from chatlm.engines.model import Model, SequenceCache
from chatlm.engines.prompt_cache import common_prefix_length
from chatlm.engines.samplers import Sampler
from chatlm.engines.torch_threads import single_torch_thread

MAX_UNREAD = 32
"""Tokens that a draft model reads at once. Where it has not read more than that before the end of a
text, it starts anew with the newest ones: reading all would take longer than drafts may save."""

MAX_TEXT = 1024
"""Tokens of a text in its KV cache, after which it starts anew."""

FIRST_TOKENS = 4
"""Tokens at the start of a text that it reads in any case: models attend to them throughout."""


class Drafter(Protocol):
    """What drafts tokens for a model."""

    @property
    def name(self) -> str:
        """As the user calls it."""
        ...

    @property
    def length(self) -> DraftLength:
        """How long drafts are."""
        ...

    def forget(self) -> None:
        """Drop what it has read."""
        ...

    def draft(
        self,
        ids: Sequence[int],
        cache: SequenceCache,
        sampler: Sampler,
        vocab_size: int,
        limit: int,
    ) -> list[int]:
        """Return tokens that may follow a text.

        Args:
            ids: of the text.
            cache: of the model that it drafts for, which has read all of them but the last.
            sampler: of the reply; it is not changed.
            vocab_size: number of that model's logits.
            limit: maximum number of tokens.

        Returns:
            None at all where a draft would hardly pay.
        """
        ...


class DraftModel:
    """A small model that drafts tokens, and its KV cache for the newest text.

    Args:
        name: as the user calls it.
        model: whose caches drop any number of tokens exactly.
    """

    def __init__(self, name: str, model: Model) -> None:
        self.name = name
        self.length = DraftLength()
        """How long drafts are."""
        self._model = model
        self._ends = frozenset(model.info.eos_token_ids)
        self.forget()

    def forget(self) -> None:
        """Drop the KV cache."""
        self._cache = self._model.new_cache()
        self._ids: list[int] = []
        """In the cache."""
        self._start = 0
        """Where the newest tokens begin that it reads of a text."""

    def draft(
        self,
        ids: Sequence[int],
        cache: SequenceCache,
        sampler: Sampler,
        vocab_size: int,
        limit: int,
    ) -> list[int]:
        """Return tokens that may follow a text, see `Drafter`."""
        if not self.length.choose(limit):
            return []
        text, known = self._newest(ids)
        count = self.length.choose(limit, len(text) - known)
        if not count:
            return []
        try:
            return self._draft(text, known, sampler.fork(), vocab_size, count)
        except BaseException:  # even an interrupt leaves some layers longer than others
            self.forget()
            raise

    def _newest(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """Return what is read of a text, and how many tokens of that are in the cache."""
        text = _part(ids, self._start)
        known = common_prefix_length(self._ids, text)
        is_shorter = self._start > max(0, len(ids) - MAX_UNREAD)
        if is_shorter or len(text) - known > MAX_UNREAD or len(text) > MAX_TEXT:
            self._start = max(0, len(ids) - MAX_UNREAD)
            text = _part(ids, self._start)
            known = common_prefix_length(self._ids, text)
        return text, known

    def _draft(
        self, text: list[int], known: int, sampler: Sampler, vocab_size: int, limit: int
    ) -> list[int]:
        kept = min(known, len(text) - 1)
        kept = self._cache.truncate(kept)
        del self._ids[kept:]
        started = time.perf_counter()
        unread = text[kept:]
        is_short = len(unread) <= self._model.max_step_tokens
        logits = self._cache.decode(unread)[-1] if is_short else self._cache.prefill(unread)
        self._ids += unread
        if not is_short:
            self.length.record_reading(len(unread), time.perf_counter() - started)

        def read_next(token: int) -> Tensor:
            logits = self._cache.decode([token])[0]
            self._ids.append(token)
            return logits

        tokens = choose_drafts(logits, read_next, sampler, vocab_size, limit, self._ends)
        if is_short and tokens:
            self.length.record_draft(len(tokens), time.perf_counter() - started)
        return tokens


def choose_drafts(
    logits: Tensor,
    read_next: Callable[[int], Tensor],
    sampler: Sampler,
    vocab_size: int,
    limit: int,
    ends: Collection[int],
) -> list[int]:
    """Return drafted tokens, each chosen from the logits after the one before.

    Args:
        logits: after the text: (vocab_size,).
        read_next: reads a chosen token; returns the logits after it.
        sampler: a copy of the reply's.
        vocab_size: number of the large model's logits.
        limit: maximum number of tokens, at least 1.
        ends: tokens that end a reply.
    """
    tokens: list[int] = []
    while True:
        try:
            with single_torch_thread():
                token = sampler(_resize(logits, vocab_size))
        except ValueError:  # the logits leave nothing to choose
            return tokens
        tokens.append(token)
        if len(tokens) == limit or token in ends:
            return tokens
        logits = read_next(token)


def _part(ids: Sequence[int], start: int) -> list[int]:
    """Return the first tokens of a text and those from a position on."""
    first = min(FIRST_TOKENS, start)
    return [*ids[:first], *ids[start:]]


def _resize(logits: Tensor, vocab_size: int) -> Tensor:
    """Return as many logits as the large model has; models pad them differently."""
    if len(logits) >= vocab_size:
        return logits[:vocab_size]
    return pad(logits, (0, vocab_size - len(logits)), value=float("-inf"))
