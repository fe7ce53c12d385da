"""Carries out jobs that ask an engine one request after the other, several jobs at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from chatlm import ChatlmError, Delta, Engine, Finished, Request, open_batch

T = TypeVar("T")

Job = Generator[Request, str, T]
"""Yields a request, gets the text that is said, or the `ChatlmError` that was raised, and so on;
returns what comes of it."""


@dataclass
class _Running:
    place: int
    job: Job[Any]
    text: str = ""


def carried_out(engine: Engine, jobs: Iterable[Job[T]]) -> Generator[tuple[int, T], None, None]:
    """Carry out jobs; closing it ends all.

    Args:
        engine: that is asked.
        jobs: taken as there is room.

    Yields:
        the place of a job, and what came of it.

    Raises:
        ChatlmError: a job did, once those that are under way have ended.
    """
    waiting = enumerate(jobs)
    running: dict[int, _Running] = {}
    failure: ChatlmError | None = None
    with closing(open_batch(engine)) as batch:

        def go_on(each: _Running, step: Callable[[], Request]) -> Iterator[tuple[int, T]]:
            """Ask what a job wants to know next, or give what came of it."""
            nonlocal failure
            each.text = ""
            try:
                running[batch.add(step())] = each
            except StopIteration as end:
                yield each.place, end.value
            except ChatlmError as error:
                failure = failure or error

        while True:
            while not failure and len(batch) < batch.at_once:
                begun = next(waiting, None)
                if begun is None:
                    break
                each = _Running(*begun)
                yield from go_on(each, partial(next, each.job))
            if not len(batch):
                break
            for number, event in batch.step():
                each = running[number]
                if isinstance(event, Delta):
                    each.text += event.text
                elif isinstance(event, Finished):
                    yield from go_on(running.pop(number), partial(each.job.send, each.text))
                elif isinstance(event, Exception):
                    yield from go_on(running.pop(number), partial(each.job.throw, event))
    if failure:
        raise failure
