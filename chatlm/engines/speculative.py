"""Speculative decoding with drafts from the prompt and the reply (prompt lookup), or of a model.

Drafts change no result: logits computed ahead are used only if the sampler chooses the token they
follow. With any sampling the reply stays the same and comes sooner where it repeats earlier text,
such as a quoted passage, or where a small draft model agrees with the large one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from chatlm.engines.draft_model import Drafter
from chatlm.engines.prompt_cache import CachedPrompt, common_prefix_length
from chatlm.engines.samplers import Sampler

NGRAM_SIZE = 3
"""Tokens that must match before a draft is made."""


MAX_CANDIDATES = 8
"""Latest occurrences of an n-gram that are compared; the one with the longest context wins."""


MAX_COMPARED_TOKENS = 32
"""Tokens of context that are compared."""


MIN_DRAFT_TOKENS, MAX_DRAFT_TOKENS = 2, 15
"""Length of a draft in tokens: short at first, longer while drafts are accepted."""


MAX_PAUSE_TOKENS = 64
"""Tokens without a draft after many rejected ones."""


class PromptLookup:
    """An index of what followed each n-gram of a sequence.

    Args:
        ids: of the prompt.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids: list[int] = []
        """All tokens."""
        self._continuations: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token."""
        if len(self.ids) >= NGRAM_SIZE:
            self._continuations[tuple(self.ids[-NGRAM_SIZE:])].append(len(self.ids))
        self.ids.append(token)

    def draft(self, max_tokens: int) -> list[int]:
        """Return up to `max_tokens` tokens that followed the best earlier match."""
        positions = self._continuations.get(tuple(self.ids[-NGRAM_SIZE:]), [])[-MAX_CANDIDATES:]
        if not positions or max_tokens < 1:
            return []
        best = max(positions, key=lambda at: (self._matching_suffix_length(at), at))
        return self.ids[best : best + max_tokens]

    def _matching_suffix_length(self, position: int) -> int:
        """Count the tokens before a position that equal the end of the sequence."""
        before = self.ids[max(0, position - MAX_COMPARED_TOKENS) : position]
        return common_prefix_length(before[::-1], self.ids[-MAX_COMPARED_TOKENS:][::-1])


class Speculator:
    """The drafts of one reply and the logits after its newest token.

    Args:
        cached_prompt: that has read the prompt; it grows with the reply.
        prompt: ids.
        sampler: of the reply.
        draft_model: drafts where the text repeats nothing; None for no drafts then.
    """

    def __init__(
        self,
        cached_prompt: CachedPrompt,
        prompt: Sequence[int],
        sampler: Sampler,
        draft_model: Drafter | None = None,
    ) -> None:
        self._cached_prompt = cached_prompt
        self._sampler = sampler
        self._lookup = PromptLookup(prompt) if cached_prompt.max_draft_tokens else None
        self._draft_model = draft_model
        if draft_model:
            draft_model.length.begin_reply()
        self._draft: list[int] = []
        self._by_model = False
        """Whether the draft is the draft model's."""
        self._num_accepted = 0
        """Tokens of the draft that the sampler has chosen so far."""
        self._logits = cached_prompt.logits[None]
        """After the token before the draft, then after each of its tokens."""
        self._draft_length = MIN_DRAFT_TOKENS
        self._pause_length = self._paused_tokens = 0
        self._step_started = self._cycle_started = 0.0
        self._is_alone = False
        """Whether the step is of this reply only; otherwise its time says nothing about drafts."""

    @property
    def logits(self) -> Tensor:
        """After the newest chosen token: (vocab_size,)."""
        return self._logits[self._num_accepted]

    def next_input(self, token: int, max_tokens: int, forced: Sequence[int] = ()) -> list[int]:
        """Return the tokens to decode, so that `logits` are those after a chosen token.

        Args:
            token: follows those of earlier calls.
            max_tokens: limit, at least 1.
            forced: tokens that follow it in any case, as far as is known.

        Returns:
            The token and a draft; nothing where the token was drafted and is already decoded.
        """
        if self._lookup is None:
            return [token]
        self._lookup.add(token)
        if self._draft[self._num_accepted : self._num_accepted + 1] == [token]:
            self._num_accepted += 1
            return []
        now = time.perf_counter()
        self._adapt_length(now - self._cycle_started)
        self._cycle_started, self._is_alone = now, max_tokens > 1
        self._cached_prompt.rollback(len(self._draft) - self._num_accepted)
        self._by_model = False
        if forced:
            self._draft = list(forced[: min(max_tokens - 1, MAX_DRAFT_TOKENS)])
        else:
            limit = min(max_tokens - 1, self._cached_prompt.max_draft_tokens)
            self._draft = self._look_up(self._lookup, limit)
            if self._draft_model and not self._draft:
                vocab_size = self._logits.shape[-1]
                self._draft = self._draft_model.draft(
                    self._lookup.ids, self._cached_prompt.cache, self._sampler, vocab_size, limit
                )
                self._by_model = True
        self._num_accepted = 0
        self._step_started = time.perf_counter()
        return [token, *self._draft]

    def set_logits(self, logits: Tensor) -> None:
        """Take the logits after each token of `next_input`: (tokens, vocab_size)."""
        self._logits = logits
        if self._draft_model and self._is_alone:
            seconds = time.perf_counter() - self._step_started
            self._draft_model.length.record_step(len(logits), seconds)

    def _look_up(self, lookup: PromptLookup, limit: int) -> list[int]:
        if self._paused_tokens < self._pause_length:
            self._paused_tokens += 1
            return []
        return lookup.draft(min(limit, self._draft_length))

    def _adapt_length(self, seconds: float) -> None:
        """Lengthen drafts after accepted ones, and pause after rejected ones.

        Args:
            seconds: since the last draft was begun.
        """
        if not self._draft:
            if self._draft_model and self._is_alone:
                self._draft_model.length.record_plain_cycle(seconds)
            return
        if self._by_model and self._draft_model:
            drafted, accepted = len(self._draft), self._num_accepted
            self._draft_model.length.record_outcome(drafted, accepted, seconds)
            return
        if self._num_accepted == len(self._draft):
            self._draft_length = min(2 * self._draft_length, MAX_DRAFT_TOKENS)
        else:
            self._draft_length = max(self._num_accepted, MIN_DRAFT_TOKENS)
        if self._num_accepted:
            self._pause_length = 0
        else:
            self._pause_length = min(2 * self._pause_length + 1, MAX_PAUSE_TOKENS)
        self._paused_tokens = 0
