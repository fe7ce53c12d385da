"""Grows several replies at once, so that the weights are read once for a token of each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from chatlm.engines.generation_state import GenerationState
from chatlm.engines.model import Model
from chatlm.engines.prompt_cache import CachedPrompt, decode_batch
from chatlm.engines.speculative import Speculator
from chatlm.types.events import EngineEvent, Finished, Prefill
from chatlm.types.requests import Request


@dataclass
class ActiveSequence:
    """A reply whose prompt was read."""

    state: GenerationState
    speculator: Speculator
    cached_prompt: CachedPrompt
    release: Callable[[], None]
    """Ends what it has for itself."""


PrefillTask = Generator[EngineEvent | ActiveSequence, None, None]
"""Reads a prompt, block by block; in the end gives what grows from there."""


class LocalBatch:
    """See `chatlm.Batch`. Prompts are read one after the other, between tokens of the others.

    Args:
        model: that all of them are made by, with adapters or without.
        start_prefill: reads a request's prompt into keys and values of its own.
        lock: held during each step.
        as_user_error: makes an error into the one that is told.
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
        self._active: dict[int, ActiveSequence] = {}
        self._next_index = 0
        self.max_concurrency = model.max_step_tokens

    def __len__(self) -> int:
        return len(self._prefilling) + len(self._active)

    def add(self, request: Request) -> int:
        """See `Batch.add`."""
        number, self._next_index = self._next_index, self._next_index + 1
        self._prefilling[number] = self._start_prefill(request)
        return number

    def cancel(self, index: int) -> None:
        """See `Batch.drop`."""
        with self._lock:
            self._remove(index)

    def close(self) -> None:
        """See `Batch.close`."""
        for number in [*self._prefilling, *self._active]:
            self.cancel(number)

    def step(self) -> list[tuple[int, EngineEvent | Exception]]:
        """See `Batch.step`."""
        with self._lock:
            return [*self._prefill_block(), *self._decode_step()]

    def _remove(self, index: int) -> None:
        if beginning := self._prefilling.pop(index, None):
            beginning.close()
        if growing := self._active.pop(index, None):
            growing.release()

    def _prefill_block(self) -> list[tuple[int, EngineEvent | Exception]]:
        """Go on reading the first of the prompts that are not read."""
        came: list[tuple[int, EngineEvent | Exception]] = []
        for number, beginning in list(self._prefilling.items()):
            try:
                for event in beginning:
                    if isinstance(event, ActiveSequence):
                        self._active[number] = event
                    else:
                        came.append((number, event))
                    if isinstance(event, Prefill):
                        return came
            except Exception as error:
                came.append((number, self._as_user_error(error)))
            del self._prefilling[number]
        return came

    def _decode_step(self) -> list[tuple[int, EngineEvent | Exception]]:
        """Read the newest tokens, then choose the next ones."""
        try:
            self._forward_newest([each for each in self._active.values() if each.state.tokens])
        except Exception as error:
            failed = list(self._active)
            for number in failed:
                self._remove(number)
            told = self._as_user_error(error)
            return [(number, told) for number in failed]
        came: list[tuple[int, EngineEvent | Exception]] = []
        for number, each in list(self._active.items()):
            try:
                events: Sequence[EngineEvent | Exception] = each.state.sample(
                    each.speculator.logits
                )
            except Exception as error:
                events = [self._as_user_error(error)]
            came += [(number, event) for event in events]
            if isinstance(events[-1], Finished | Exception):
                self._remove(number)
        return came

    def _forward_newest(self, sequences: Sequence[ActiveSequence]) -> None:
        """Read the newest token of each; of one alone, those that are guessed to follow too.

        Beside others a guess would cost as much as it may save.
        """
        most = self.max_concurrency if len(sequences) == 1 else 1
        reading = []
        for each in sequences:
            decoding = each.state
            if ids := each.speculator.next_input(
                decoding.tokens[-1], min(decoding.remaining_tokens, most)
            ):
                reading.append((each, ids))
        if reading:
            keys = [each.cached_prompt for each, _ in reading]
            rows = decode_batch(self._model, keys, [ids for _, ids in reading])
            for (each, _), own in zip(reading, rows, strict=True):
                each.speculator.set_logits(own)
