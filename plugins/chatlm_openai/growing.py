"""One reply while it grows: makes a server's pieces into an engine's events."""

from __future__ import annotations

import dataclasses
import time

from chatlm import Delta, Finished, Sampling, ShownTokens, StopReason, StopText, Usage
from chatlm_openai.chunks import Chunk

_REASONS = {"length": StopReason.LENGTH, "content_filter": StopReason.CRITERION}
"""By a server's `finish_reason`; with any other, the model ended its turn."""

BURST = 0.05
"""Seconds in which a whole reply may come at once, which says nothing of how fast it was made."""


class Growing:
    """Takes pieces until the reply has ended.

    Args:
        sampling: what was asked for.
        prompt_tokens: of the prompt, by an estimate that holds until the server counts.
        at_most: what it means that the reply is as long as it may be.
    """

    def __init__(self, sampling: Sampling, prompt_tokens: int, at_most: StopReason) -> None:
        self._stops = StopText(sampling.stop)
        self._tokens = ShownTokens()
        self._stop_strings = sampling.stop
        self._longest = sampling.max_tokens
        self._pieces = 0
        self._at_most = at_most
        self._usage = Usage(prompt_tokens=prompt_tokens)
        self._started = time.perf_counter()
        self._first = 0.0
        self._finish = ""
        self._stop = ""

    def take(self, chunk: Chunk) -> list[Delta | Finished]:
        """What a piece brings; a stop string, or a length, that the server did not heed ends the
        reply."""
        self._finish = chunk.finish or self._finish
        self._stop = chunk.stop or self._stop
        self._count(chunk)
        if not chunk.text:
            self._tokens.feed(chunk.tokens, "")
            return []
        self._pieces += 1
        if self._longest and self._pieces > self._longest:
            self._finish = "length"
            return self.end()
        self._tokens.feed(chunk.tokens, chunk.text)
        events: list[Delta | Finished] = [self._delta(self._stops.feed(chunk.text))]
        if self._stops.found is not None:
            events.append(Finished(StopReason.STOP_STRING, self._usage, self._stops.found))
        return events

    def waiting(self) -> Delta:
        """An event for while nothing comes, so that whoever pulls can give up."""
        return Delta("", self._stops.held, self._usage)

    @property
    def begun(self) -> bool:
        """Whether any text has come."""
        return self._first > 0

    def end(self) -> list[Delta | Finished]:
        """What is left when the server has ended the reply."""
        events: list[Delta | Finished] = []
        if held := self._stops.flush():
            events.append(self._delta(held))
        reason = _REASONS.get(self._finish, StopReason.END)
        stop: str | None = None
        if reason is StopReason.LENGTH:
            reason = self._at_most
        elif reason is StopReason.CRITERION:
            stop = self._finish
        elif self._stop in self._stop_strings:
            reason, stop = StopReason.STOP_STRING, self._stop
        return [*events, Finished(reason, self._usage, stop)]

    def _delta(self, text: str) -> Delta:
        return Delta(text, self._stops.held, self._usage, self._tokens.take(text))

    def _count(self, chunk: Chunk) -> None:
        """Count a piece with text as a token, until the server says how many there were."""
        usage, now = self._usage, time.perf_counter()
        made = usage.completion_tokens
        if chunk.text:
            self._first = self._first or now
            made += 1
        if chunk.completion_tokens is not None:
            made = chunk.completion_tokens
        prompt = chunk.prompt_tokens
        cached = chunk.cached_tokens
        self._usage = dataclasses.replace(
            usage,
            prompt_tokens=usage.prompt_tokens if prompt is None else prompt,
            cached_tokens=usage.cached_tokens if cached is None else cached,
            completion_tokens=made,
        )
        if chunk.text:
            taken = now - self._first
            self._usage = dataclasses.replace(
                self._usage,
                first_token_seconds=self._first - self._started,
                decode_seconds=taken if taken > BURST else 0.0,
            )
