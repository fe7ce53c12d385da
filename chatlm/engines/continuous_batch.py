"""Continuous batching: decode one token of each running reply per pass over the weights."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from chatlm.engines.generation_state import GenerationState
from chatlm.engines.model import Model
from chatlm.engines.prompt_cache import CachedPrompt, decode_batch
from chatlm.engines.speculative import Speculator
from chatlm.types.events import EngineEvent, Finished, Prefill
from chatlm.types.requests import Request


@dataclass
class ActiveSequence:
    """A reply whose prompt is prefilled."""

    state: GenerationState
    speculator: Speculator
    cached_prompt: CachedPrompt
    release: Callable[[], None]
    """Returns its KV cache."""


PrefillTask = Generator[EngineEvent | ActiveSequence | Future[Any] | None, None, None]
"""Prefills a prompt block by block; the last item is the sequence to decode. It yields a future
while another thread computes what it needs, and None where it can pause within a block."""


PREFILL_SECONDS, PREFILL_STEPS = 0.04, 2
"""Time for reading prompts between two tokens of other replies, the longer of two: in seconds, so
that text still flows, and in decode steps, so that a slow model does not neglect new prompts."""

_NEWEST_STEPS = 8
"""Decode steps of which the shortest counts: others may have waited for a processor."""

_MAX_WAIT = 0.02
"""Seconds that a step waits for other threads; another request may come meanwhile."""


class LocalBatch:
    """A `chatlm.Batch` that prefills one prompt at a time between decode steps of the others.

    While replies are decoded, each step reads prompts for a limited time, be that several of them
    or some layers of a block; a longer pause would show in every stream.

    Args:
        model: of all requests, with adapters or without.
        start_prefill: prefills a request's prompt into a KV cache of its own.
        lock: held during each step.
        as_user_error: turns an error into one for the user.
    """

    def __init__(
        self,
        model: Model,
        start_prefill: Callable[[Request], PrefillTask],
        lock: AbstractContextManager[object],
        as_user_error: Callable[[Exception], Exception],
    ) -> None:
        self._model = model
        self._start_prefill = start_prefill
        self._lock = lock
        self._as_user_error = as_user_error
        self._prefilling: dict[int, PrefillTask] = {}
        self._paused: set[int] = set()
        """Those of them that are within a block."""
        self._active: dict[int, ActiveSequence] = {}
        self._awaited: list[Future[Any]] = []
        self._next_index = 0
        self._decode_seconds: deque[float] = deque(maxlen=_NEWEST_STEPS)
        """Of the newest steps."""
        self.max_concurrency = model.max_step_tokens

    def __len__(self) -> int:
        return len(self._prefilling) + len(self._active)

    def add(self, request: Request) -> int:
        """Start a request; return its index."""
        index, self._next_index = self._next_index, self._next_index + 1
        self._prefilling[index] = self._start_prefill(request)
        return index

    def cancel(self, index: int) -> None:
        """Stop a request."""
        with self._lock:
            self._remove(index)

    def close(self) -> None:
        """Stop all requests."""
        for index in [*self._prefilling, *self._active]:
            self.cancel(index)

    def step(self) -> list[tuple[int, EngineEvent | Exception]]:
        """Prefill a block or some of it, and decode a token of each active sequence.

        Returns no events while all prompts are still being encoded.
        """
        with self._lock:
            events = [*self._prefill(), *self._decode_step()]
        if not events and self._awaited:
            wait(self._awaited, _MAX_WAIT, return_when=FIRST_COMPLETED)
        return events

    def _remove(self, index: int) -> None:
        self._paused.discard(index)
        if prefilling := self._prefilling.pop(index, None):
            prefilling.close()
        if sequence := self._active.pop(index, None):
            sequence.release()

    def _prefill(self) -> list[tuple[int, EngineEvent | Exception]]:
        """Read the oldest prompt that is not complete, and others while there is time."""
        events: list[tuple[int, EngineEvent | Exception]] = []
        self._awaited = []
        end = math.inf
        if self._active:
            decoding = min(self._decode_seconds, default=0.0)
            limit = max(PREFILL_SECONDS, PREFILL_STEPS * decoding)
            # where the newest step waited for a processor, prompts wait as much longer
            delay = self._decode_seconds[-1] - decoding if self._decode_seconds else 0.0
            end = time.perf_counter() + max(limit - delay, limit / 4)
        # blocks that wait at their readers' first pauses are read at once, where the model can
        for index in list(self._prefilling):
            if index not in self._paused and self._advance(index, end, events, to_pause=True):
                return events
        for index in list(self._prefilling):
            if self._advance(index, end, events, to_pause=False):
                return events
        return events

    def _advance(
        self,
        index: int,
        end: float,
        events: list[tuple[int, EngineEvent | Exception]],
        *,
        to_pause: bool,
    ) -> bool:
        """Read a prompt, to its end or to its next pause; tell whether the step ends."""
        self._paused.discard(index)
        try:
            for event in self._prefilling[index]:
                if isinstance(event, Future):
                    self._awaited.append(event)
                    return False
                if isinstance(event, ActiveSequence):
                    self._active[index] = event
                elif event is not None:
                    events.append((index, event))
                else:
                    self._paused.add(index)
                ends_block = isinstance(event, Prefill) and end == math.inf
                if ends_block or time.perf_counter() > end:
                    return True
                if to_pause and event is None:
                    return False
                self._paused.discard(index)
        except Exception as error:
            events.append((index, self._as_user_error(error)))
        del self._prefilling[index]
        self._paused.discard(index)
        return False

    def _decode_step(self) -> list[tuple[int, EngineEvent | Exception]]:
        """Decode the newest tokens, then sample the next ones."""
        try:
            self._forward_newest([each for each in self._active.values() if each.state.tokens])
        except Exception as error:
            failed = list(self._active)
            for index in failed:
                self._remove(index)
            user_error = self._as_user_error(error)
            return [(index, user_error) for index in failed]
        events: list[tuple[int, EngineEvent | Exception]] = []
        for index, sequence in list(self._active.items()):
            try:
                sampled: Sequence[EngineEvent | Exception] = sequence.state.sample(
                    sequence.speculator.logits
                )
            except Exception as error:
                sampled = [self._as_user_error(error)]
            events += [(index, event) for event in sampled]
            if isinstance(sampled[-1], Finished | Exception):
                self._remove(index)
        return events

    def _forward_newest(self, sequences: Sequence[ActiveSequence]) -> None:
        """Decode the newest token of each sequence; of a single one, a draft as well.

        With several sequences a draft costs as much as it may save.
        """
        limit = self.max_concurrency if len(sequences) == 1 else 1
        inputs = []
        for sequence in sequences:
            state = sequence.state
            if ids := sequence.speculator.next_input(
                state.tokens[-1], min(state.remaining_tokens, limit), state.forced_tokens
            ):
                inputs.append((sequence, ids))
        if inputs:
            started = time.perf_counter()
            caches = [sequence.cached_prompt for sequence, _ in inputs]
            rows = decode_batch(self._model, caches, [ids for _, ids in inputs])
            for (sequence, _), logits in zip(inputs, rows, strict=True):
                sequence.speculator.set_logits(logits)
            self._decode_seconds.append(time.perf_counter() - started)
