"""An engine that says what it was told to, a word a token; for tests of all that uses one."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Generator, Iterable

from chatlm.engines.batching import SequentialBatch
from chatlm.engines.estimated_tokens import EstimatedTokens
from chatlm.types.engine import EngineInfo, check_parts
from chatlm.types.events import Delta, EngineEvent, Finished, Prefill, PromptReady
from chatlm.types.messages import Message, StopReason, Usage
from chatlm.types.requests import Prompt, Request
from chatlm.types.sampling import DEFAULT_SAMPLING

_WORD_PATTERN = re.compile(r"\s*\S+\s*\Z|\s*\S+|\s+")

WORD_TOKENS = EstimatedTokens(_WORD_PATTERN.findall, estimated=False)
"""The prompt of an engine whose tokens are words."""


class ScriptedEngine:
    """Answers each request with the next of its replies; with none left, says so.

    Args:
        replies: what to say, in order; a StopReason or an exception instead of a text ends the
            stream with it.
        delay: seconds before each token.
        context: tokens that prompt and reply may have together.
    """

    def __init__(
        self, *replies: str | StopReason | Exception, delay: float = 0.0, context: int = 4096
    ) -> None:
        self.requests: list[Request] = []
        """Every request it got, for assertions."""
        self.read_ahead_requests: list[Request] = []
        """Every request it was asked to read ahead."""
        self.closed = False
        self._replies = deque(replies)
        self._delay = delay
        self.info = EngineInfo(
            model="scripted",
            device="cpu",
            dtype="none",
            context_length=context,
            prompt_format="chatml",
            default_sampling=DEFAULT_SAMPLING,
        )

    def queue(self, *replies: str | StopReason | Exception) -> None:
        """More to say, after what is already waiting."""
        self._replies.extend(replies)

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """See `Engine.stream`."""
        check_parts(request, self.info)
        self.requests.append(request)
        reply = self._replies.popleft() if self._replies else "Nothing is left in the script."
        started = time.perf_counter()
        prompt = self.preview(request)
        left_out = tuple(request.messages[index] for index in prompt.omitted)
        total = len(prompt.tokens)
        yield PromptReady(total, prompt.context_length, left_out, prompt_hash=prompt.hash)
        yield Prefill(total, total)
        if isinstance(reply, Exception):
            raise reply
        usage = Usage(prompt_tokens=total)
        if isinstance(reply, StopReason):
            yield Finished(reply, usage)
            return
        limit = request.sampling.max_tokens or DEFAULT_SAMPLING.max_tokens or 0
        first = 0.0
        words = _WORD_PATTERN.findall(reply)
        for made, word in enumerate(words[:limit], start=1):
            if self._delay:
                time.sleep(self._delay)
            at = time.perf_counter()
            first = first or at
            usage = Usage(total, 0, made, first - started, at - first)
            yield Delta(word, usage=usage)
        yield Finished(StopReason.LENGTH if len(words) > limit else StopReason.END, usage)

    def batch(self) -> SequentialBatch:
        """Answer one request after the other."""
        return SequentialBatch(self)

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """See `Engine.read_ahead`."""
        self.read_ahead_requests.append(request)
        prompt = self.count_tokens(request.messages)
        yield Prefill(prompt, prompt)

    def preview(self, request: Request) -> Prompt:
        """See `Engine.preview`."""
        return WORD_TOKENS.preview(request, self.info)

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """Words, and two for each message's frame."""
        return WORD_TOKENS.count_tokens(messages)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
