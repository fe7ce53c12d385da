"""One batch for several clients: each gets its own events, whoever moves the batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import pytest

from chatlm import Delta, EngineEvent, Finished, Message, Request, StopReason, Usage
from chatlm_serve.work_queue import SharedBatch


class Words:
    """Says the words of each request, one of each at a step; `!` fails."""

    max_concurrency = 3

    def __init__(self) -> None:
        self.left: dict[int, list[str]] = {}
        self.steps = self.came = 0

    def __len__(self) -> int:
        return len(self.left)

    def add(self, request: Request) -> int:
        self.came += 1
        self.left[self.came] = request.messages[-1].text.split()
        return self.came

    def cancel(self, index: int) -> None:
        self.left.pop(index, None)

    def step(self) -> Sequence[tuple[int, EngineEvent | Exception]]:
        self.steps += 1
        made: list[tuple[int, EngineEvent | Exception]] = []
        for number, words in list(self.left.items()):
            if not words:
                made.append((number, Finished(StopReason.END, Usage())))
                self.cancel(number)
            elif (word := words.pop(0)) == "!":
                made.append((number, ValueError("failed")))
                self.cancel(number)
            elif word != "-":  # nothing comes of it
                made.append((number, Delta(word)))
        return made

    def close(self) -> None:
        self.left.clear()


def request(text: str) -> Request:
    return Request((Message("user", text),))


def text_of(event: EngineEvent | None) -> str:
    return event.text if isinstance(event, Delta) else ""


def test_each_stream_gets_its_own_tokens_and_one_step_serves_all() -> None:
    batch = Words()
    shared = SharedBatch(batch)
    running = [shared.stream(request(text)) for text in ("a b c d", "x - y", "p")]
    said = ["", "", ""]
    open_ = dict(enumerate(running))
    while open_:
        for number, events in list(open_.items()):
            event = next(events)
            said[number] += text_of(event)
            if isinstance(event, Finished):
                del open_[number]
    assert said == ["abcd", "xy", "p"]
    assert batch.steps == 5


def test_streams_that_wait_do_not_let_the_others_wait_longer() -> None:
    batch = Words()
    shared = SharedBatch(batch)
    waiting = [shared.stream(request("- " * 20)) for _ in range(2)]
    talking = shared.stream(request("a b c d e"))
    running = (talking, *waiting)
    assert [text_of(next(events)) for events in running] == ["a", "", ""]
    begun = batch.steps
    for turn, word in enumerate("bcde", 1):
        assert [text_of(next(events)) for events in running] == [word, "", ""]
        assert batch.steps == begun + turn


def test_a_failing_or_abandoned_stream_does_not_affect_the_others() -> None:
    batch = Words()
    shared = SharedBatch(batch)
    left, failing, other = (shared.stream(request(text)) for text in ("a b c", "q !", "x y z"))
    assert [text_of(next(events)) for events in (left, failing, other)] == ["a", "q", "x"]
    left.close()
    assert text_of(next(other)) == "y"
    with closing(failing), pytest.raises(ValueError, match="failed"):
        next(failing)
    assert [text_of(event) for event in other] == ["z", ""]
    assert len(batch) == 0
    running = shared.stream(request("more words"))
    next(running)
    shared.close()
    assert len(batch) == 0
