"""Tokens, detokenizer, stops, usage, logprobs of one reply."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatlm.engines.detokenizer import Detokenizer, TokenBytes
from chatlm.engines.samplers import Sampler
from chatlm.engines.stopping import EosStoppingCriteria, StopStringFilter
from chatlm.types.events import Delta, Finished, LogprobBuffer, TokenLogprob
from chatlm.types.messages import StopReason, Usage
from chatlm.types.requests import Request


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """Let torch compute in this thread alone: others come late to so little work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass
class GenerationState:
    """One reply on its way, whose tokens are chosen one by one."""

    prompt: list[int]
    request: Request
    sampler: Sampler
    token_bytes: TokenBytes
    detokenizer: Detokenizer
    stops: StopStringFilter
    format_stops: frozenset[str]
    """Stop strings by which the prompt format, not the person, ends a reply."""
    end: EosStoppingCriteria
    most: int
    """At most this many new tokens, at least one."""
    at_most: StopReason
    """What it means to reach `most`."""
    usage: Usage
    started: float
    """`time.perf_counter()` when the request came."""
    made: list[int] = field(default_factory=list)
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the tokens made, where the request asks for them."""
    _told: LogprobBuffer = field(default_factory=LogprobBuffer)
    _shown: int = 0
    _first: float = 0.0

    @property
    def left(self) -> int:
        """How many more tokens may come."""
        return self.most - len(self.made)

    def choose(self, logits: Tensor) -> tuple[Delta] | tuple[Delta, Finished]:
        """Choose a token, see whether it ends the reply, and give what is certain of the text.

        Args:
            logits: (vocabulary,), after the token before it.
        """
        with single_torch_thread():
            self.made.append(self.sampler(self._processed(logits)))
            if (wanted := self.request.logprobs) is not None:
                told = token_logprob(logits, self.made[-1], wanted, self.token_bytes)
                self._logprobs.append(told)
        self._count()
        reason, stop = self._ending(logits)
        text = self._new_text(last=reason is not None)
        if self.stops.found is not None:
            stop = self.stops.found
            reason = StopReason.END if stop in self.format_stops else StopReason.STOP_STRING
        delta = Delta(text, self._held(), self.usage, self._told.take(text))
        return (delta,) if reason is None else (delta, Finished(reason, self.usage, stop))

    def _ids(self) -> Tensor:
        return torch.tensor([self.prompt + self.made])

    def _processed(self, logits: Tensor) -> Tensor:
        for processor in self.request.processors:
            logits = processor(self._ids().to(logits.device), logits[None])[0]
        return logits

    def _ending(self, logits: Tensor) -> tuple[StopReason | None, str | None]:
        """Why the newest token is the last, text stops aside."""
        if self.end.ending(self.made) is not None:
            return StopReason.END, None
        for criterion in self.request.criteria:
            if torch.as_tensor(criterion(self._ids().to(logits.device), logits[None])).any():
                name = getattr(criterion, "__name__", type(criterion).__name__)
                return StopReason.CRITERION, name
        return (None if self.left else self.at_most), None

    def _new_text(self, *, last: bool) -> str:
        """The text that became certain; all that is left when no more tokens come."""
        ending = self.end.ending(self.made)
        sure = len(self.made) - (len(ending) if ending else 0)
        if not last:
            sure -= self.end.pending(self.made)
        text = "".join(self._fed(place) for place in range(self._shown, sure))
        self._shown = max(self._shown, sure)
        if last:
            rest = self.detokenizer.flush()
            self._told.feed((), rest)
            text += rest
        text = self.stops.feed(text)
        return text + self.stops.flush() if last else text

    def _fed(self, place: int) -> str:
        """The text that a token of the reply brings."""
        text = self.detokenizer.feed(self.made[place])
        self._told.feed(self._logprobs[place : place + 1], text)
        return text

    def _held(self) -> str:
        waiting = self.made[self._shown :] if self.stops.found is None else []
        pending = waiting[: self.end.pending(self.made)]
        return self.stops.held + (self.detokenizer.peek(pending) if pending else "")

    def _count(self) -> None:
        now = time.perf_counter()
        self._first = self._first or now
        self.usage = dataclasses.replace(
            self.usage,
            completion_tokens=len(self.made),
            first_token_seconds=self._first - self.started,
            decode_seconds=now - self._first,
        )


def token_logprob(
    logits: Tensor, token: int, alternatives: int, token_bytes: TokenBytes
) -> TokenLogprob:
    """A token's log-probability, and those of the likeliest.

    Args:
        logits: (vocabulary,), the model's own.
        token: the one that was chosen.
        alternatives: how many of the likeliest tokens are wanted.
        token_bytes: names them.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    top = [(number, float(logprobs[number])) for number in top_token_ids(logprobs, alternatives)]
    return TokenLogprob(
        token_bytes(token),
        float(logprobs[token]),
        tuple(TokenLogprob(token_bytes(number), logprob) for number, logprob in top),
    )


def top_token_ids(logprobs: Tensor, count: int) -> list[int]:
    """The ids of the greatest, in their order; of equal ones the lowest ids, as `argmax` has it."""
    if not count:
        return []
    border = torch.topk(logprobs, min(count, len(logprobs))).values[-1]
    ids = torch.nonzero(logprobs >= border).flatten()
    order = torch.argsort(logprobs[ids], descending=True, stable=True)
    return list(map(int, ids[order[:count]]))
