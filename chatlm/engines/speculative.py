"""Guesses the next tokens from what stands earlier in prompt and reply, and has them read at once.

A guess changes no number: logits that were computed ahead are used only if the token that they
follow is the one that is chosen. So the reply is the same with any sampling, only sooner where it
repeats what was said before, such as a passage that is quoted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from chatlm.engines.prompt_cache import CachedPrompt, common_prefix_length

NGRAM_SIZE = 3
"""Tokens that must be the same before a guess is made."""


MAX_CANDIDATES = 8
"""Newest places of a run that are compared; the one with the longest same text before it wins."""


MAX_COMPARED_TOKENS = 32
"""Tokens before a place that are compared."""


MIN_DRAFT_TOKENS, MAX_DRAFT_TOKENS = 2, 15
"""Tokens that are guessed at once: few at first, more while guesses come true."""


MAX_PAUSE_TOKENS = 64
"""Tokens without a guess, after many wrong ones."""


class PromptLookup:
    """Knows what followed each run of tokens.

    Args:
        ids: of the prompt.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._continuations: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Take up a token that was chosen."""
        if len(self._ids) >= NGRAM_SIZE:
            self._continuations[tuple(self._ids[-NGRAM_SIZE:])].append(len(self._ids))
        self._ids.append(token)

    def draft(self, max_tokens: int) -> list[int]:
        """What may come next, from the place where the same was said before; at most
        `max_tokens`."""
        places = self._continuations.get(tuple(self._ids[-NGRAM_SIZE:]), [])[-MAX_CANDIDATES:]
        if not places or max_tokens < 1:
            return []
        best = max(places, key=lambda place: (self._matching_suffix_length(place), place))
        return self._ids[best : best + max_tokens]

    def _matching_suffix_length(self, position: int) -> int:
        """How many tokens before a place are those that the text ends with."""
        there = self._ids[max(0, position - MAX_COMPARED_TOKENS) : position]
        return common_prefix_length(there[::-1], self._ids[-MAX_COMPARED_TOKENS:][::-1])


class Speculator:
    """Says which tokens of a reply to read, and has the logits after the newest.

    Args:
        cached_prompt: that have read the prompt; they grow with the reply.
        prompt: ids.
    """

    def __init__(self, cached_prompt: CachedPrompt, prompt: Sequence[int]) -> None:
        self._cached_prompt = cached_prompt
        self._lookup = PromptLookup(prompt) if cached_prompt.max_step_tokens > 1 else None
        self._draft: list[int] = []
        self._num_accepted = 0
        """How many of them were chosen so far."""
        self._logits = cached_prompt.logits[None]
        """After the token before the guesses, then after each of them."""
        self._draft_length = MIN_DRAFT_TOKENS
        self._pause_length = self._paused_tokens = 0

    @property
    def logits(self) -> Tensor:
        """After the newest token that was read or guessed: (vocabulary,)."""
        return self._logits[self._num_accepted]

    def next_input(self, token: int, max_tokens: int) -> list[int]:
        """The tokens to read, so that `logits` are those after a token that was chosen.

        Args:
            token: it stands behind all that this was called with before.
            max_tokens: tokens that may be read at once, at least 1.

        Returns:
            It and those that may follow; nothing where it was read already.
        """
        if self._lookup is None:
            return [token]
        self._lookup.add(token)
        if self._draft[self._num_accepted : self._num_accepted + 1] == [token]:
            self._num_accepted += 1
            return []
        self._adapt_length()
        self._cached_prompt.rollback(len(self._draft) - self._num_accepted)
        self._draft = self._next_draft(self._lookup, max_tokens - 1)
        self._num_accepted = 0
        return [token, *self._draft]

    def set_logits(self, logits: Tensor) -> None:
        """The logits after each of the tokens that were wanted: (tokens, vocabulary)."""
        self._logits = logits

    def _next_draft(self, lookup: PromptLookup, max_tokens: int) -> list[int]:
        if self._paused_tokens < self._pause_length:
            self._paused_tokens += 1
            return []
        return lookup.draft(min(max_tokens, self._draft_length))

    def _adapt_length(self) -> None:
        """Guess more where guesses came true, and less often where they did not."""
        if not self._draft:
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
