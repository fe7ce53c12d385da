"""Several generations as the work of one reply: their events, texts and common cost."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from chatlm import (
    Delta,
    Engine,
    EngineEvent,
    Finished,
    Prefill,
    PromptReady,
    Request,
    StopReason,
    TokenLogprob,
    Usage,
    stream_many,
)


@dataclass
class Generation:
    """The result of one request."""

    text: str = ""
    """The answer, without thoughts."""
    stop_reason: StopReason = StopReason.CANCELLED
    usage: Usage = field(default_factory=Usage)
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the model ended it by itself, or at a stop string."""
        return self.stop_reason in (StopReason.END, StopReason.STOP_STRING)


class Work:
    """The work on one reply: runs generations, and adds up what they cost.

    Args:
        engine: runs all of them.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._started = time.perf_counter()
        self._first_token: float | None = None
        self._last_token = 0.0
        self._done = Usage()
        self._running: dict[int, Usage] = {}
        self._ready = False

    def generate(
        self, requests: Sequence[Request]
    ) -> Generator[EngineEvent, None, list[Generation]]:
        """Run requests together, where the engine can.

        Yields:
            `PromptReady` and `Prefill`s of the very first one, then an empty `Delta` for each
            token.

        Returns:
            the results in the order of the requests.
        """
        results = [Generation() for _ in requests]
        with closing(stream_many(self.engine, requests)) as events:
            for index, event in events:
                result = results[index]
                match event:
                    case PromptReady():
                        if not self._ready:
                            self._ready = True
                            yield event
                    case Prefill():
                        if index == 0 and self._first_token is None:
                            yield event
                        else:
                            yield self.tick()
                    case Delta():
                        result.text += event.answer
                        result.logprobs += event.logprobs
                        self._last_token = time.perf_counter()
                        self._first_token = self._first_token or self._last_token
                        self._running[index] = event.usage
                        yield self.tick()
                    case Finished(stop_reason=reason, usage=usage):
                        result.stop_reason, result.usage = reason, usage
                        self._running.pop(index, None)
                        self._done = self._done + usage
        return results

    def tick(self) -> Delta:
        """Return an event without text, so that the consumer can cancel."""
        return Delta("", usage=self.usage(), part="reasoning")

    def tell(self, text: str) -> Delta:
        """Return a piece of the record of the work."""
        return Delta(text, usage=self.usage(), part="reasoning")

    def usage(self, answer_tokens: int = 0) -> Usage:
        """Return the cost so far.

        Args:
            answer_tokens: how many of the new tokens are the answer's; the others are thoughts.
        """
        prompt, cached, new = (
            getattr(self._done, name) + sum(getattr(each, name) for each in self._running.values())
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
        )
        first = self._first_token
        return Usage(
            prompt,
            cached,
            new,
            None if first is None else first - self._started,
            0.0 if first is None else self._last_token - first,
            max(new - answer_tokens, 0),
        )

    def cost(self) -> str:
        """Describe the cost so far in a few words."""
        usage = self.usage()
        read = usage.prompt_tokens - usage.cached_tokens
        seconds = time.perf_counter() - self._started
        return (
            f"{usage.completion_tokens:,} tokens generated, {read:,} read, in {seconds:.1f} seconds"
        )
