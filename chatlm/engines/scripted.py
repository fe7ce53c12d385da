"""An engine that says what it was told to, a word a token; for tests of all that uses one."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Generator, Iterable

from chatlm.events import Delta, EngineEvent, Finished, Fitted, Prefill
from chatlm.generation import EngineInfo, Request
from chatlm.messages import Message, StopReason, Usage
from chatlm.sampling import DEFAULTS


class ScriptedEngine:
    """Answers each request with the next of its replies; with none left, says so.

    Args:
        replies: what to say, in order; a StopReason or an exception instead of a text ends the
            stream with it.
        delay: seconds before each token.
    """

    def __init__(self, *replies: str | StopReason | Exception, delay: float = 0.0) -> None:
        self.requests: list[Request] = []
        """Every request it got, for assertions."""
        self.read: list[Request] = []
        """Every request it was asked to read ahead."""
        self.closed = False
        self._replies = deque(replies)
        self._delay = delay
        self.info = EngineInfo(
            model="scripted",
            device="cpu",
            dtype="none",
            context_length=4096,
            prompt_format="chatml",
            defaults=DEFAULTS,
        )

    def queue(self, *replies: str | StopReason | Exception) -> None:
        """More to say, after what is already waiting."""
        self._replies.extend(replies)

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """See `Engine.stream`."""
        self.requests.append(request)
        reply = self._replies.popleft() if self._replies else "Nothing is left in the script."
        prompt = self.count_tokens(request.messages)
        started = time.perf_counter()
        yield Fitted(prompt_tokens=prompt, limit=self.info.context_length)
        yield Prefill(prompt, prompt)
        if isinstance(reply, Exception):
            raise reply
        usage = Usage(prompt_tokens=prompt)
        if isinstance(reply, StopReason):
            yield Finished(reply, usage)
            return
        limit = request.sampling.max_tokens or DEFAULTS.max_tokens or 0
        first = 0.0
        words = re.findall(r"\s*\S+\s*$|\s*\S+|\s+", reply)
        for made, word in enumerate(words[:limit], start=1):
            if self._delay:
                time.sleep(self._delay)
            at = time.perf_counter()
            first = first or at
            usage = Usage(prompt, 0, made, first - started, at - first)
            yield Delta(word, usage=usage)
        yield Finished(StopReason.LENGTH if len(words) > limit else StopReason.END, usage)

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """See `Engine.read_ahead`."""
        self.read.append(request)
        prompt = self.count_tokens(request.messages)
        yield Prefill(prompt, prompt)

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """Words, and two for each message's frame."""
        return sum(len(message.content.split()) + 2 for message in messages)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
