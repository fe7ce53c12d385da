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
        self._behind: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Take up a token that was chosen."""
        if len(self._ids) >= NGRAM_SIZE:
            self._behind[tuple(self._ids[-NGRAM_SIZE:])].append(len(self._ids))
        self._ids.append(token)

    def guess(self, most: int) -> list[int]:
        """What may come next, from the place where the same was said before; at most `most`."""
        places = self._behind.get(tuple(self._ids[-NGRAM_SIZE:]), [])[-MAX_CANDIDATES:]
        if not places or most < 1:
            return []
        best = max(places, key=lambda place: (self._same_before(place), place))
        return self._ids[best : best + most]

    def _same_before(self, place: int) -> int:
        """How many tokens before a place are those that the text ends with."""
        there = self._ids[max(0, place - MAX_COMPARED_TOKENS) : place]
        return common_prefix_length(there[::-1], self._ids[-MAX_COMPARED_TOKENS:][::-1])


class Speculator:
    """Says which tokens of a reply to read, and has the logits after the newest.

    Args:
        keys: that have read the prompt; they grow with the reply.
        prompt: ids.
    """

    def __init__(self, keys: CachedPrompt, prompt: Sequence[int]) -> None:
        self._keys = keys
        self._lookup = PromptLookup(prompt) if keys.at_once > 1 else None
        self._guessed: list[int] = []
        self._true = 0
        """How many of them were chosen so far."""
        self._logits = keys.logits[None]
        """After the token before the guesses, then after each of them."""
        self._length = MIN_DRAFT_TOKENS
        self._pause = self._waited = 0

    @property
    def logits(self) -> Tensor:
        """After the newest token that was read or guessed: (vocabulary,)."""
        return self._logits[self._true]

    def wanted(self, token: int, most: int) -> list[int]:
        """The tokens to read, so that `logits` are those after a token that was chosen.

        Args:
            token: it stands behind all that this was called with before.
            most: tokens that may be read at once, at least 1.

        Returns:
            It and those that may follow; nothing where it was read already.
        """
        if self._lookup is None:
            return [token]
        self._lookup.add(token)
        if self._guessed[self._true : self._true + 1] == [token]:
            self._true += 1
            return []
        self._learn()
        self._keys.drop(len(self._guessed) - self._true)
        self._guessed = self._guess(self._lookup, most - 1)
        self._true = 0
        return [token, *self._guessed]

    def take(self, logits: Tensor) -> None:
        """The logits after each of the tokens that were wanted: (tokens, vocabulary)."""
        self._logits = logits

    def _guess(self, lookup: PromptLookup, most: int) -> list[int]:
        if self._waited < self._pause:
            self._waited += 1
            return []
        return lookup.guess(min(most, self._length))

    def _learn(self) -> None:
        """Guess more where guesses came true, and less often where they did not."""
        if not self._guessed:
            return
        if self._true == len(self._guessed):
            self._length = min(2 * self._length, MAX_DRAFT_TOKENS)
        else:
            self._length = max(self._true, MIN_DRAFT_TOKENS)
        if self._true:
            self._pause = 0
        else:
            self._pause = min(2 * self._pause + 1, MAX_PAUSE_TOKENS)
        self._waited = 0
