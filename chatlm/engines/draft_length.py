"""How many tokens a draft model should draft, so that text comes sooner and never much later."""

from __future__ import annotations

from collections import deque

FIRST_DRAFT_TOKENS, MAX_DRAFT_TOKENS = 2, 8
"""Limit of a draft's length at the start of a reply, which doubles with each draft that is accepted
as a whole, and its end: longer ones seldom are."""

_MIN_GAIN = 1.05
"""Expected speed, relative to no draft, below which there is none."""

_HORIZON = 24
"""Tokens of the reply within which drafts are to save the time that reading the text takes."""

_MAX_SKIPPED = 15
"""Most replies without drafts after some in which they lost time."""

_FIRST_CREDIT = 1.0
"""Time that drafts may lose at the start of a reply, in steps with one token."""

_MAX_FIRST_CREDIT = 1.5
"""The same where drafts gained as much in earlier replies."""

_CREDIT_PER_TOKEN = 0.02
"""What each token of the reply adds to that."""

_UNKNOWN_READING = 1.0
"""Time that reading the text is thought to take at first, likewise."""

_MAX_CREDIT = 8.0
"""Most of it that is saved up."""

_NEW_SHARE = 0.2
"""Weight of a new time in its running mean."""

_MEMORY = 0.9
"""Weight of earlier drafts relative to the newest one."""

_EARLIER_REPLIES = 0.5
"""Weight of what drafts gained in earlier replies."""

_NEWEST_STEPS = 8
"""Steps with one token of which the shortest counts: in others, something else ran meanwhile.
Drafts are compared with the machine at its best, or what disturbs it would hide their losses."""

_FIRST_STEPS = 3
"""Steps with one token before the first draft, since one alone may have been disturbed."""

_MAX_PAUSE = 15
"""Limit of the steps without a draft after one of which nothing was chosen. They double with each
such draft in succession, so that few are made in vain, however long they seem to take."""

_MAX_DRAFTS = 8
"""Drafts in succession before a step with one token, which shows anew what they compare with."""

_MAX_OUTLIER = 2.0
"""A longer time, relative to the mean, counts as so long: something else ran meanwhile."""


class DraftLength:
    """Weighs what drafts bring against the time that they and their verification take.

    Only times depend on it, never a token.
    """

    def __init__(self) -> None:
        self._plain_steps: deque[float] = deque(maxlen=_NEWEST_STEPS)
        """Seconds of the newest steps with one token."""
        self._plain_cycles: deque[float] = deque(maxlen=_NEWEST_STEPS)
        """From each such step to the next, with all that is done for a token."""
        self._extra_seconds: float | None = None
        """Of each further token in a step."""
        self._draft_seconds: float | None = None
        """Of a drafted token."""
        self._read_seconds: float | None = None
        """Of a token of the text that the draft model reads."""
        self._reading = 0.0
        """Seconds of reading before the newest draft."""
        self._accepted, self._tried = 2.8, 4.0
        """Drafted tokens that were chosen, of those that were compared; the latest weigh most."""
        self._credit = _FIRST_CREDIT
        """Time that drafts may lose now, reading included, in steps with one token."""
        self._longest = FIRST_DRAFT_TOKENS
        self._pause = self._pause_left = 0
        """Steps without a draft after the newest draft, and those still to come."""
        self._drafts = 0
        """Since the newest step with one token."""
        self._balance = 0.0
        """What drafts brought to the reply, likewise."""
        self._gained = 0.0
        """The same of earlier replies, of which the latest weigh most."""
        self._backoff = self._skipped = 0
        """Replies to leave out after one in which drafts lose time, and those still to come."""

    def begin_reply(self) -> None:
        """Start anew, but leave out some replies where drafts lost time in the one before.

        Their number doubles with each loss in succession.
        """
        if self._skipped:
            self._skipped -= 1
        elif self._balance < 0:
            self._backoff = min(2 * self._backoff + 1, _MAX_SKIPPED)
            self._skipped = self._backoff
        elif self._balance > 0:
            self._backoff = 0
        self._gained = max(0.0, _EARLIER_REPLIES * self._gained + self._balance)
        self._credit = min(_FIRST_CREDIT + _EARLIER_REPLIES * self._gained, _MAX_FIRST_CREDIT)
        self._balance = 0.0
        self._longest = FIRST_DRAFT_TOKENS
        self._pause = self._pause_left = 0

    @property
    def _plain_seconds(self) -> float | None:
        """Of a step with one token."""
        return min(self._plain_steps) if len(self._plain_steps) >= _FIRST_STEPS else None

    @property
    def _plain_cycle(self) -> float | None:
        """From one such step to the next."""
        return min(self._plain_cycles, default=None)

    @property
    def acceptance(self) -> float:
        """How likely the next drafted token is chosen, 0 to 1."""
        return self._accepted / self._tried

    def choose(self, limit: int, unread: int = 1) -> int:
        """Return the number of tokens to draft.

        Args:
            limit: maximum number of tokens.
            unread: tokens that the draft model has to read before.
        """
        longest = min(limit, self._longest)
        if longest < 1 or self._plain_seconds is None or self._skipped or self._pause_left:
            return 0
        credit = self._credit * self._plain_seconds
        reading = 0.0
        if unread > 1:
            known = self._read_seconds
            reading = unread * known if known else _UNKNOWN_READING * self._plain_seconds
        if self._draft_seconds is None or self._extra_seconds is None:
            return 1 if reading < credit else 0
        # what all tokens take in vain must not be more than drafts may lose
        token_seconds = self._draft_seconds + self._extra_seconds
        affordable = int((credit - reading) / token_seconds) if token_seconds else longest
        longest = min(longest, affordable)
        if longest < 1:
            return 0
        best = max(range(1, longest + 1), key=self.expected_gain)
        gain = self.expected_gain(best)
        saved = _HORIZON * (1 - 1 / gain) * self._plain_seconds if gain > 0 else 0.0
        return best if gain >= _MIN_GAIN and reading <= saved else 1

    def expected_gain(self, length: int) -> float:
        """Return the expected speed with drafts of some tokens, relative to no drafts."""
        plain, extra = self._plain_seconds or 0.0, self._extra_seconds or 0.0
        tokens = sum(self.acceptance**number for number in range(length + 1))
        seconds = plain + length * (extra + (self._draft_seconds or 0.0))
        return tokens * plain / seconds if seconds else 1.0

    def record_step(self, tokens: int, seconds: float) -> None:
        """Take the time of a step of the large model."""
        if tokens == 1:
            self._plain_steps.append(seconds)
        elif self._plain_seconds is not None:
            extra = max(0.0, seconds - self._plain_seconds) / (tokens - 1)
            self._extra_seconds = _mean(self._extra_seconds, extra)

    def record_draft(self, tokens: int, seconds: float) -> None:
        """Take the time of a draft."""
        self._draft_seconds = _mean(self._draft_seconds, seconds / tokens)

    def record_reading(self, tokens: int, seconds: float) -> None:
        """Take the time of reading many tokens of a text."""
        self._read_seconds = _mean(self._read_seconds, seconds / tokens)
        self._reading = seconds

    def record_plain_cycle(self, seconds: float) -> None:
        """Take the time from a step with one token to the next step."""
        self._plain_cycles.append(seconds)
        self._pause_left, self._drafts = max(self._pause_left - 1, 0), 0
        self._earn(_CREDIT_PER_TOKEN)

    def record_outcome(self, drafted: int, accepted: int, seconds: float) -> None:
        """Take what a draft brought.

        Args:
            drafted: number of its tokens.
            accepted: how many of them were chosen, one after the other from its start.
            seconds: from before the draft to the next step.
        """
        if accepted == drafted:
            self._longest = min(max(2 * drafted, self._longest), MAX_DRAFT_TOKENS)
        else:
            self._longest = max(accepted, FIRST_DRAFT_TOKENS)
        self._pause = 0 if accepted else min(2 * self._pause + 1, _MAX_PAUSE)
        self._drafts += 1
        self._pause_left = max(self._pause, int(self._drafts >= _MAX_DRAFTS))
        self._accepted = _MEMORY * self._accepted + accepted
        self._tried = _MEMORY * self._tried + min(accepted + 1, drafted)
        if self._plain_cycle is not None:
            # a pause of the program is no fault of the draft
            steps = min((seconds - self._reading) / self._plain_cycle, 2.0 * (drafted + 1))
            steps += self._reading / self._plain_cycle
            self._earn((1 + _CREDIT_PER_TOKEN) * (accepted + 1) - steps)
            self._balance += accepted + 1 - steps
        self._reading = 0.0

    def _earn(self, credit: float) -> None:
        self._credit = min(_MAX_CREDIT, self._credit + credit)


def _mean(known: float | None, new: float) -> float:
    """Return a running mean with a new value."""
    if known is None:
        return new
    return known + _NEW_SHARE * (min(new, _MAX_OUTLIER * known) - known)
