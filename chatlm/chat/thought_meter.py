"""Meter of how long and how many tokens a model thinks while its reply streams."""

from __future__ import annotations

from chatlm.types.parts import Reasoning
from chatlm.types.replies import StreamedPart, Usage


class ThoughtMeter:
    """Measures the newest thought of a stream by the usage that comes with its text.

    Args:
        continued: the thought that the stream continues; None if it starts with something new.
    """

    def __init__(self, continued: Reasoning | None = None) -> None:
        self._before = continued or Reasoning("", 0.0, 0)
        """What the thought took in an earlier stream."""
        self._start: Usage | None = None if continued is None else Usage()
        """Usage before the thought; None outside of one."""
        self._last = Usage()
        self._cost = Reasoning("", self._before.seconds or None, self._before.tokens or None)

    def add(self, text: str, part: StreamedPart, usage: Usage) -> None:
        """Add new text of a part; `usage` is that up to its end."""
        if part != "reasoning":
            if not text:  # a marker, or a sign of life of the engine
                return
            self._start = None
        else:
            if self._start is None:
                self._start, self._before = self._last, Reasoning("", 0.0, 0)
            before = self._before
            seconds = usage.decode_seconds - self._start.decode_seconds
            tokens = usage.reasoning_tokens - self._start.reasoning_tokens
            is_counted = before.tokens is not None and usage.reasoning_tokens > 0
            self._cost = Reasoning(
                "",
                None if before.seconds is None else (before.seconds + seconds) or None,
                (before.tokens or 0) + tokens if is_counted else None,
            )
        self._last = usage

    def end(self, usage: Usage) -> bool:
        """Add the tokens that an engine counts only at the end of its stream, as servers do.

        Returns:
            whether there are any.
        """
        late = usage.reasoning_tokens - self._last.reasoning_tokens
        self._last = usage
        if not late or self._cost == Reasoning("") or self._before.tokens is None:
            return False
        tokens = (self._cost.tokens or self._before.tokens) + late
        self._cost = Reasoning("", self._cost.seconds, tokens)
        return True

    def thought(self, text: str) -> Reasoning:
        """Return the newest thought, with what it took so far."""
        return Reasoning(text, self._cost.seconds, self._cost.tokens)
