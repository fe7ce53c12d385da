"""Grows several replies at once, so that the weights are read once for a token of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from chatlm.engines.decode import Decoding
from chatlm.engines.model import Model
from chatlm.engines.prefix import KeyValues, extend_each
from chatlm.events import EngineEvent, Finished
from chatlm.generation import Request


@dataclass
class Begun:
    """A reply whose prompt was read."""

    decoding: Decoding
    keys: KeyValues


@dataclass
class _Growing:
    number: int
    begun: Begun
    logits: Tensor


def together(
    model: Model,
    requests: Iterable[Request],
    begin: Callable[[Request], Generator[EngineEvent, None, Begun]],
) -> Generator[tuple[int, EngineEvent], None, None]:
    """The events of all requests, each with the place of its request.

    As many replies grow at once as the model decodes at once; when one ends, the next begins.

    Args:
        model: that all of them are made by.
        requests: what to generate.
        begin: reads a request's prompt into keys and values of its own.
    """
    waiting = deque(enumerate(requests))
    growing: list[_Growing] = []
    while waiting or growing:
        while waiting and len(growing) < model.at_once:
            number, request = waiting.popleft()
            begun = yield from _numbered(number, begin(request))
            growing.append(_Growing(number, begun, begun.keys.logits))
        still = []
        for each in growing:
            events = each.begun.decoding.choose(each.logits)
            yield from ((each.number, event) for event in events)
            if not isinstance(events[-1], Finished):
                still.append(each)
        growing = still
        if growing:
            _read_newest(model, growing)


def _numbered(
    number: int, events: Generator[EngineEvent, None, Begun]
) -> Generator[tuple[int, EngineEvent], None, Begun]:
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            begun: Begun = end.value
            return begun
        yield number, event


def _read_newest(model: Model, growing: Sequence[_Growing]) -> None:
    """Read the newest token of each."""
    tokens = [each.begun.decoding.made[-1] for each in growing]
    logits = extend_each(model, [each.begun.keys for each in growing], tokens)
    for each, row in zip(growing, logits, strict=True):
        each.logits = row
