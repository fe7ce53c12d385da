"""An engine that replays scripted replies, one word per token, for tests."""

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
"""Prompts of an engine whose tokens are words."""


class ScriptedEngine:
    """An engine that answers each request with the next reply of a script.

    Args:
        replies: in order; a StopReason or an exception ends the stream instead of a text.
        delay: seconds before each token.
        context: limit of prompt and reply together, in tokens.
    """

    def __init__(
        self, *replies: str | StopReason | Exception, delay: float = 0.0, context: int = 4096
    ) -> None:
        self.requests: list[Request] = []
        """Every request streamed, for assertions."""
        self.read_ahead_requests: list[Request] = []
        """Every request read ahead."""
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
        """Append replies to the script."""
        self._replies.extend(replies)

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """Stream the next reply of the script."""
        check_parts(request, self.info)
        self.requests.append(request)
        reply = self._replies.popleft() if self._replies else "Nothing is left in the script."
        started = time.perf_counter()
        prompt = self.preview(request)
        omitted = tuple(request.messages[index] for index in prompt.omitted)
        total = len(prompt.tokens)
        yield PromptReady(total, prompt.context_length, omitted, prompt_hash=prompt.hash)
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
        for count, word in enumerate(words[:limit], start=1):
            if self._delay:
                time.sleep(self._delay)
            at = time.perf_counter()
            first = first or at
            usage = Usage(total, 0, count, first - started, at - first)
            yield Delta(word, usage=usage)
        yield Finished(StopReason.LENGTH if len(words) > limit else StopReason.END, usage)

    def batch(self) -> SequentialBatch:
        """Answer one request after the other."""
        return SequentialBatch(self)

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """Record the request."""
        self.read_ahead_requests.append(request)
        prompt = self.count_tokens(request.messages)
        yield Prefill(prompt, prompt)

    def preview(self, request: Request) -> Prompt:
        """Return the prompt, one token per word."""
        return WORD_TOKENS.preview(request, self.info)

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """Count the words, and two control tokens per message."""
        return WORD_TOKENS.count_tokens(messages)

    def close(self) -> None:
        """Record that it is closed."""
        self.closed = True
