"""How many tokens a draft model should draft, so that text comes sooner and never much later."""

from __future__ import annotations

MAX_DRAFT_TOKENS = 8
"""Longer drafts are seldom accepted as a whole."""

_MIN_GAIN = 1.05
"""Expected speed, relative to no draft, below which there is none."""

_FIRST_CREDIT = 2.0
"""Time that drafts may lose at the start of a reply, in steps with one token."""

_CREDIT_PER_TOKEN = 0.05
"""What each token of the reply adds to that."""

_MAX_CREDIT = 8.0
"""Most of it that is saved up."""

_NEW_SHARE = 0.2
"""Weight of a new time in its running mean."""

_MEMORY = 0.9
"""Weight of earlier drafts relative to the newest one."""

_MAX_OUTLIER = 2.0
"""A longer time, relative to the mean, counts as so long: something else ran meanwhile."""


class DraftLength:
    """Weighs what drafts bring against the time that they and their verification take.

    Only times depend on it, never a token.
    """

    def __init__(self) -> None:
        self._plain_seconds: float | None = None
        """Of a step with one token."""
        self._extra_seconds: float | None = None
        """Of each further token in a step."""
        self._draft_seconds: float | None = None
        """Of a drafted token."""
        self._accepted, self._tried = 2.8, 4.0
        """Drafted tokens that were chosen, of those that were compared; the latest weigh most."""
        self._credit = _FIRST_CREDIT

    def begin_reply(self) -> None:
        """Forget what drafts lost or gained in earlier replies."""
        self._credit = _FIRST_CREDIT

    @property
    def acceptance(self) -> float:
        """How likely the next drafted token is chosen, 0 to 1."""
        return self._accepted / self._tried

    def choose(self, limit: int) -> int:
        """Return the number of tokens to draft.

        Args:
            limit: at most so many.
        """
        longest = min(limit, MAX_DRAFT_TOKENS)
        if longest < 1 or self._plain_seconds is None or self._credit <= 0:
            return 0
        if self._draft_seconds is None or self._extra_seconds is None:
            return 1
        best = max(range(1, longest + 1), key=self.expected_gain)
        return best if self.expected_gain(best) >= _MIN_GAIN else 1  # a try

    def expected_gain(self, length: int) -> float:
        """Return the expected speed with drafts of some tokens, relative to no drafts."""
        plain, extra = self._plain_seconds or 0.0, self._extra_seconds or 0.0
        tokens = sum(self.acceptance**number for number in range(length + 1))
        seconds = plain + length * (extra + (self._draft_seconds or 0.0))
        return tokens * plain / seconds if seconds else 1.0

    def record_step(self, tokens: int, seconds: float) -> None:
        """Take the time of a step of the large model."""
        if tokens == 1:
            self._plain_seconds = _mean(self._plain_seconds, seconds)
            self._earn(_CREDIT_PER_TOKEN)
        elif self._plain_seconds is not None:
            extra = max(0.0, seconds - self._plain_seconds) / (tokens - 1)
            self._extra_seconds = _mean(self._extra_seconds, extra)

    def record_draft(self, tokens: int, seconds: float) -> None:
        """Take the time of a draft."""
        self._draft_seconds = _mean(self._draft_seconds, seconds / tokens)

    def record_outcome(self, drafted: int, accepted: int) -> None:
        """Take how many tokens of a draft were chosen, one after the other from its start."""
        self._accepted = _MEMORY * self._accepted + accepted
        self._tried = _MEMORY * self._tried + min(accepted + 1, drafted)
        cost = (self._draft_seconds or 0.0) + (self._extra_seconds or 0.0)
        lost = drafted * cost / (self._plain_seconds or 1.0) - accepted
        self._earn(_CREDIT_PER_TOKEN * (accepted + 1) - lost)

    def _earn(self, credit: float) -> None:
        self._credit = min(_MAX_CREDIT, self._credit + credit)


def _mean(known: float | None, new: float) -> float:
    """Return a running mean with a new value."""
    if known is None:
        return new
    return known + _NEW_SHARE * (min(new, _MAX_OUTLIER * known) - known)
