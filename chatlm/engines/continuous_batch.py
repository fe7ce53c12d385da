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

    decoding: GenerationState
    drafting: Speculator
    keys: CachedPrompt
    give_back: Callable[[], None]
    """Ends what it has for itself."""


PrefillTask = Generator[EngineEvent | ActiveSequence, None, None]
"""Reads a prompt, block by block; in the end gives what grows from there."""


class LocalBatch:
    """See `chatlm.Batch`. Prompts are read one after the other, between tokens of the others.

    Args:
        model: that all of them are made by, with adapters or without.
        begin: reads a request's prompt into keys and values of its own.
        lock: held during each step.
        explained: makes an error into the one that is told.
    """

    def __init__(
        self,
        model: Model,
        begin: Callable[[Request], PrefillTask],
        lock: AbstractContextManager[object],
        explained: Callable[[Exception], Exception],
    ) -> None:
        self._model = model
        self._begin = begin
        self._lock = lock
        self._explained = explained
        self._beginning: dict[int, PrefillTask] = {}
        self._growing: dict[int, ActiveSequence] = {}
        self._came = 0
        self.at_once = model.at_once

    def __len__(self) -> int:
        return len(self._beginning) + len(self._growing)

    def add(self, request: Request) -> int:
        """See `Batch.add`."""
        number, self._came = self._came, self._came + 1
        self._beginning[number] = self._begin(request)
        return number

    def drop(self, number: int) -> None:
        """See `Batch.drop`."""
        with self._lock:
            self._drop(number)

    def close(self) -> None:
        """See `Batch.close`."""
        for number in [*self._beginning, *self._growing]:
            self.drop(number)

    def step(self) -> list[tuple[int, EngineEvent | Exception]]:
        """See `Batch.step`."""
        with self._lock:
            return [*self._read_a_block(), *self._grow()]

    def _drop(self, number: int) -> None:
        if beginning := self._beginning.pop(number, None):
            beginning.close()
        if growing := self._growing.pop(number, None):
            growing.give_back()

    def _read_a_block(self) -> list[tuple[int, EngineEvent | Exception]]:
        """Go on reading the first of the prompts that are not read."""
        came: list[tuple[int, EngineEvent | Exception]] = []
        for number, beginning in list(self._beginning.items()):
            try:
                for event in beginning:
                    if isinstance(event, ActiveSequence):
                        self._growing[number] = event
                    else:
                        came.append((number, event))
                    if isinstance(event, Prefill):
                        return came
            except Exception as error:
                came.append((number, self._explained(error)))
            del self._beginning[number]
        return came

    def _grow(self) -> list[tuple[int, EngineEvent | Exception]]:
        """Read the newest tokens, then choose the next ones."""
        try:
            self._read_newest([each for each in self._growing.values() if each.decoding.made])
        except Exception as error:
            failed = list(self._growing)
            for number in failed:
                self._drop(number)
            told = self._explained(error)
            return [(number, told) for number in failed]
        came: list[tuple[int, EngineEvent | Exception]] = []
        for number, each in list(self._growing.items()):
            try:
                events: Sequence[EngineEvent | Exception] = each.decoding.choose(
                    each.drafting.logits
                )
            except Exception as error:
                events = [self._explained(error)]
            came += [(number, event) for event in events]
            if isinstance(events[-1], Finished | Exception):
                self._drop(number)
        return came

    def _read_newest(self, growing: Sequence[ActiveSequence]) -> None:
        """Read the newest token of each; of one alone, those that are guessed to follow too.

        Beside others a guess would cost as much as it may save.
        """
        most = self.at_once if len(growing) == 1 else 1
        reading = []
        for each in growing:
            decoding = each.decoding
            if ids := each.drafting.wanted(decoding.made[-1], min(decoding.left, most)):
                reading.append((each, ids))
        if reading:
            keys = [each.keys for each, _ in reading]
            rows = decode_batch(self._model, keys, [ids for _, ids in reading])
            for (each, _), own in zip(reading, rows, strict=True):
                each.drafting.take(own)
