"""Grows one reply, token by token, until something ends it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatlm.engines.detokenize import Detokenizer
from chatlm.engines.prefix import KeyValues
from chatlm.engines.samplers import Sampler
from chatlm.engines.stopping import EndTokenStoppingCriteria
from chatlm.events import Delta, EngineEvent, Finished
from chatlm.generation import Request
from chatlm.messages import StopReason, Usage
from chatlm.stopping import StopText


@dataclass
class Decoding:
    """One reply on its way; `run` it once."""

    prompt: list[int]
    request: Request
    sampler: Sampler
    detokenizer: Detokenizer
    stops: StopText
    format_stops: frozenset[str]
    """Stop strings by which the prompt format, not the person, ends a reply."""
    end: EndTokenStoppingCriteria
    most: int
    """At most this many new tokens, at least one."""
    at_most: StopReason
    """What it means to reach `most`."""
    usage: Usage
    started: float
    """`time.perf_counter()` when the request came."""
    made: list[int] = field(default_factory=list)
    _shown: int = 0
    _first: float = 0.0

    def run(self, keys: KeyValues, logits: Tensor) -> Iterator[EngineEvent]:
        """Choose a token, see whether it ends the reply, show what is certain, read it; repeat.

        Args:
            keys: keys and values of the prompt; they grow with the reply.
            logits: (vocabulary,), after the prompt's last token.
        """
        while True:
            token = self.sampler(self._processed(logits))
            self.made.append(token)
            self._count()
            reason, stop = self._ending(logits)
            text = self._new_text(last=reason is not None)
            if self.stops.found is not None:
                stop = self.stops.found
                reason = StopReason.END if stop in self.format_stops else StopReason.STOP_STRING
            yield Delta(text, self._held(), self.usage)
            if reason is not None:
                yield Finished(reason, self.usage, stop)
                return
            logits = keys.extend([token])

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
        return (self.at_most if len(self.made) >= self.most else None), None

    def _new_text(self, *, last: bool) -> str:
        """The text that became certain; all that is left when no more tokens come."""
        ending = self.end.ending(self.made)
        sure = len(self.made) - (len(ending) if ending else 0)
        if not last:
            sure -= self.end.pending(self.made)
        text = "".join(self.detokenizer.feed(token) for token in self.made[self._shown : sure])
        self._shown = max(self._shown, sure)
        if last:
            text += self.detokenizer.flush()
        text = self.stops.feed(text)
        return text + self.stops.flush() if last else text

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
