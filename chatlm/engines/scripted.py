"""An engine that replays scripted replies, one word per token, for tests."""

from __future__ import annotations

import dataclasses
import re
import time
from collections import deque
from collections.abc import Collection, Generator, Iterable, Sequence
from typing import Any

from chatlm.engines.batching import SequentialBatch
from chatlm.engines.estimated_tokens import EstimatedTokens
from chatlm.engines.stopping import StopStringFilter
from chatlm.types.engine import EngineInfo, check_no_method, check_parts
from chatlm.types.events import Delta, EngineEvent, Finished, Prefill, PromptReady
from chatlm.types.messages import Message
from chatlm.types.parts import Reasoning, Text, ToolCall
from chatlm.types.replies import StopReason, StreamedPart, Usage
from chatlm.types.requests import Prompt, Request, prompt_hash
from chatlm.types.sampling import DEFAULT_SAMPLING, Thinking

_WORD_PATTERN = re.compile(r"\s*\S+\s*\Z|\s*\S+|\s+")

ScriptedReply = str | tuple[Reasoning | Text | ToolCall, ...] | StopReason | Exception
"""One reply of a script: a text; or its thoughts, texts and, at the end, calls of tools, in order;
a StopReason or an exception ends the stream instead. A call's id may be empty: then each gets one
of its own."""

WORD_TOKENS = EstimatedTokens(_WORD_PATTERN.findall, estimated=False)
"""Prompts of an engine whose tokens are words."""


class ScriptedEngine:
    """An engine that answers each request with the next reply of a script.

    Stop strings and `max_tokens` end an answer; thoughts are left alone. Logits processors and
    stopping criteria are called for each word, with the ids of `vocabulary` and with scores that
    are 10 for the script's next word and 0 for all others; the word with the highest score is
    generated.

    Args:
        replies: in order.
        delay: seconds before each token.
        context: limit of prompt and reply together, in tokens.
        thinks: as `EngineInfo.thinks`.
        thinking_levels: as `EngineInfo.thinking_levels`.
        images: whether it accepts images, as if it looked at them.
    """

    def __init__(
        self,
        *replies: ScriptedReply,
        delay: float = 0.0,
        context: int = 4096,
        thinks: bool | None = None,
        thinking_levels: Collection[Thinking] = (),
        images: bool = False,
    ) -> None:
        self.requests: list[Request] = []
        """Every request streamed, for assertions."""
        self.read_ahead_requests: list[Request] = []
        """Every request read ahead."""
        self.closed = False
        self._call_count = 0
        self._ids: dict[str, int] = {}
        self._replies = deque(replies)
        self._delay = delay
        self.info = EngineInfo(
            model="scripted",
            device="cpu",
            weights="none",
            context_length=context,
            prompt_format="chatml",
            default_sampling=DEFAULT_SAMPLING,
            thinks=thinks,
            thinking_levels=tuple(thinking_levels),
            accepts=frozenset({"text", "tool_call", "tool_result", *(["image"] if images else [])}),
        )

    @property
    def vocabulary(self) -> list[str]:
        """The words of all prompts and replies so far; a word's place is its token id."""
        return list(self._ids)

    def image_tokens(self, width: int, height: int) -> int:
        """Count one token for each 32×32 pixels of an image."""
        return -(-width // 32) * -(-height // 32)

    def queue(self, *replies: ScriptedReply) -> None:
        """Append replies to the script."""
        self._replies.extend(replies)

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """Stream the next reply of the script."""
        check_parts(request, self.info)
        check_no_method(request)
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
        words = _words_of(reply)
        answered = [place for place, (part, _) in enumerate(words) if part == "text"]
        end = answered[limit] if len(answered) > limit else len(words)
        ids = [token.id for token in prompt.tokens]
        for _, word in words:
            self._id_of(word)
        stop_filter = StopStringFilter(request.sampling.stop)
        reason, matched = StopReason.LENGTH if end < len(words) else StopReason.END, None
        thoughts = 0
        for count, (part, scripted) in enumerate(words[:end], start=1):
            if self._delay:
                time.sleep(self._delay)
            word = self._process(request, ids, scripted)
            ids.append(self._id_of(word))
            at = time.perf_counter()
            first = first or at
            thoughts += part == "reasoning"
            usage = Usage(total, 0, count, first - started, at - first, thoughts)
            text = stop_filter.feed(word) if part == "text" else word
            criterion = self._met_criterion(request, ids, word)
            if (matched := stop_filter.matched_stop) is not None:
                reason = StopReason.STOP_STRING
            elif criterion is not None:
                reason, matched = StopReason.CRITERION, criterion
            if matched is not None or count == end:
                text += stop_filter.flush()
            withheld = stop_filter.withheld if part == "text" else ""
            yield Delta(text, withheld, usage=usage, part=part)
            if matched is not None:
                break
        calls = () if matched or reason is not StopReason.END else self._calls_of(reply)
        yield Finished(StopReason.TOOL_CALLS if calls else reason, usage, matched, calls)

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
        prompt = WORD_TOKENS.preview(request, self.info)
        tokens = tuple(
            dataclasses.replace(each, id=self._id_of(each.text)) for each in prompt.tokens
        )
        ids = [token.id for token in tokens]
        return dataclasses.replace(prompt, tokens=tokens, hash=prompt_hash(ids))

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """Count the words, and two control tokens per message."""
        return WORD_TOKENS.count_tokens(messages)

    def _calls_of(
        self, reply: str | tuple[Reasoning | Text | ToolCall, ...]
    ) -> tuple[ToolCall, ...]:
        """Return the calls of a reply, each with an id."""
        calls = [part for part in reply if isinstance(part, ToolCall)]
        first = self._call_count
        self._call_count += len(calls)
        return tuple(
            call if call.id else dataclasses.replace(call, id=f"call_{number}")
            for number, call in enumerate(calls, first + 1)
        )

    def _id_of(self, word: str) -> int:
        return self._ids.setdefault(word, len(self._ids))

    def _arguments(self, ids: Sequence[int], word: str) -> tuple[Any, Any]:
        """Return the arguments of a processor or criterion, as tensors with one row."""
        import torch  # here, since most scripts need none

        scores = torch.zeros(1, len(self._ids))
        scores[0, self._id_of(word)] = 10.0
        return torch.tensor([ids]), scores

    def _process(self, request: Request, ids: Sequence[int], word: str) -> str:
        """Return the word to generate: the script's, unless processors prefer another."""
        if not request.logits_processors:
            return word
        input_ids, scores = self._arguments(ids, word)
        for processor in request.logits_processors:
            scores = processor(input_ids, scores.clone())
        return self.vocabulary[int(scores[0].argmax())]

    def _met_criterion(self, request: Request, ids: Sequence[int], word: str) -> str | None:
        """Return the name of the first stopping criterion that is met."""
        for criterion in request.stopping_criteria:
            if bool(criterion(*self._arguments(ids, word))):
                return getattr(criterion, "__name__", type(criterion).__name__)
        return None

    def close(self) -> None:
        """Record that it is closed."""
        self.closed = True


def _words_of(
    reply: str | tuple[Reasoning | Text | ToolCall, ...],
) -> list[tuple[StreamedPart, str]]:
    """Return the words of a reply, each with its part."""
    words: list[tuple[StreamedPart, str]] = []
    for part in (Text(reply),) if isinstance(reply, str) else reply:
        if isinstance(part, ToolCall):
            continue
        kind: StreamedPart = "reasoning" if isinstance(part, Reasoning) else "text"
        words += ((kind, word) for word in _WORD_PATTERN.findall(part.text))
    return words
