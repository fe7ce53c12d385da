"""Batched answers of contestants; jobs that ask repeatedly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

from chatlm import (
    Batch,
    ChatlmError,
    ContextTooLong,
    Delta,
    Engine,
    EngineEvent,
    Finished,
    MessageRefused,
    PromptReady,
    Request,
    Sampling,
    SideChat,
    StopReason,
    Usage,
    UsageError,
    one_line,
)
from chatlm_arena.contestants import MAX_NAME_CHARACTERS, Contestant
from chatlm_arena.records import MatchReply

K = TypeVar("K")


ContestantGuard = Callable[[Contestant], AbstractContextManager[None]]


@dataclass(frozen=True)
class Seat:
    """A contestant in one chat."""

    contestant: Contestant
    chat: SideChat


@dataclass(frozen=True)
class AnswerRequest:
    """One reply that is wanted."""

    seat: Seat
    prompt: str
    turn: int
    seed: int | None = None
    """Holds where the contestant has none of its own; None leaves it to the engine."""


class AnswerWriter:
    """One reply as it grows; `reply` may be read at any time.

    A message that the contestant refuses, or has no room for, has that as its reply, with the stop
    reason `error`.

    Args:
        answer_request: what is wanted.
    """

    def __init__(self, answer_request: AnswerRequest) -> None:
        self.answer_request = answer_request
        self._request: Request | None = None
        self._model = ""
        self._text = ""
        self._prompt_hash = ""
        self._usage = Usage()
        self._stop_reason = StopReason.CANCELLED

    def start(self) -> bool:
        """Make the request, once; False where no engine is to be asked, since the reply is there.

        That is so where the contestant refuses, which then is the reply.

        Raises:
            ChatlmError: the set-up does not work, such as an adapter or an index that is gone.
        """
        order, chat = self.answer_request, self.answer_request.seat.chat
        if self._request or self.ended:
            return not self.ended
        try:
            self._request = with_default_seed(chat.request(order.prompt), order.seed)
            self._model = chat.engine.info.model
            for event in chat.events_without_engine(self._request):
                self.add(event)
        except (MessageRefused, ContextTooLong) as error:
            self._refuse(error)
            return False
        except ChatlmError:
            self._stop_reason = StopReason.ERROR
            raise
        return not self.ended

    def add(self, event: EngineEvent | Exception) -> None:
        """Let the reply grow by what an engine's batch reports.

        Raises:
            ChatlmError: the engine failed.
        """
        match event:
            case MessageRefused() | ContextTooLong():
                self._refuse(event)
            case Exception():
                self._stop_reason = StopReason.ERROR
                raise event
            case PromptReady():
                self._prompt_hash = event.prompt_hash
            case Delta():
                self._text, self._usage = self._text + event.text, event.usage
            case Finished():
                self._stop_reason, self._usage = event.stop_reason, event.usage

    @property
    def text(self) -> str:
        """What was said so far."""
        return self._text

    @property
    def ended(self) -> bool:
        """Whether the reply is complete, was refused or failed."""
        return self._stop_reason is not StopReason.CANCELLED

    @property
    def request(self) -> Request:
        """What `begin` made."""
        if self._request is None:
            raise RuntimeError("nothing was asked yet")
        return self._request

    @property
    def engine(self) -> Engine:
        """The contestant's; loaded first where it is not there."""
        return self.answer_request.seat.chat.engine

    @property
    def reply(self) -> MatchReply:
        """What was said so far, and what made it."""
        order, request = self.answer_request, self._request
        made_by = self._usage.to_dict() | {
            "model": self._model,
            "adapter": request.adapter if request else None,
            "sampling": request.sampling.to_dict() if request else {},
            "prompt_hash": self._prompt_hash,
        }
        return MatchReply(
            order.seat.contestant.id,
            order.turn,
            order.prompt,
            self._text,
            self._stop_reason,
            made_by,
        )

    def _refuse(self, error: ChatlmError) -> None:
        self._stop_reason = StopReason.ERROR
        self._text = self._text or str(error)


def generate_answers(
    answer_requests: Iterable[AnswerRequest],
) -> Generator[tuple[int, MatchReply], None, None]:
    """Answer orders, each taken when its turn has come; in which order they end is for the engine.

    Args:
        answer_requests: those of one model stand together, so that models which do not fit side
            by side are loaded as rarely as can be.

    Yields:
        the place of an order, and the reply.

    Raises:
        UsageError: a contestant's set-up does not work; whose is said. What was yielded before
            stands.
    """
    for _, group in groupby(
        enumerate(answer_requests), key=lambda each: each[1].seat.chat.setup.model
    ):
        answerings = ((at, AnswerWriter(order)) for at, order in group)
        with closing(stream_answers(answerings, name_contestant_in_errors)) as grown:
            for at, answering in grown:
                if answering.ended:
                    yield at, answering.reply


def stream_answers(
    writers: Iterable[tuple[K, AnswerWriter]], guard: ContestantGuard = lambda _: nullcontext()
) -> Generator[tuple[K, AnswerWriter], None, None]:
    """Answer orders of one model, at once where its engine can do that; closing it stops all.

    Args:
        writers: what is to be answered, each with what tells it apart; taken as there is room.
        guard: around whatever is done for one contestant alone.

    Yields:
        one that has grown, for the last time when it has ended.

    Raises:
        ChatlmError: as `Answering.begin` and `take`, once those that are on their way have ended.
    """
    waiting = iter(writers)
    asked: dict[int, tuple[K, AnswerWriter]] = {}
    failure: ChatlmError | None = None
    with ExitStack() as opened:
        batch: Batch | None = None
        while True:
            while not failure and (batch is None or len(batch) < batch.max_concurrency):
                each = next(waiting, None)
                if each is None:
                    break
                _, answering = each
                try:
                    with guard(answering.answer_request.seat.contestant):
                        begun = answering.start()
                except ChatlmError as error:
                    failure = error
                    break
                if not begun:
                    yield each
                    continue
                if batch is None:
                    batch = opened.enter_context(closing(answering.engine.batch()))
                asked[batch.add(answering.request)] = each
            if batch is None or not len(batch):
                break
            for number, event in batch.step():
                key, answering = asked[number]
                try:
                    with guard(answering.answer_request.seat.contestant):
                        answering.add(event)
                except ChatlmError as error:
                    failure = failure or error
                else:
                    yield key, answering
    if failure:
        raise failure


@contextmanager
def name_contestant_in_errors(contestant: Contestant) -> Iterator[None]:
    """Say who could not answer, which the reason alone would not tell."""
    try:
        yield
    except ChatlmError as error:
        name = one_line(contestant.name, MAX_NAME_CHARACTERS)
        raise UsageError(f"{name} could not answer. {error.message}", hint=error.hint) from error


def with_default_seed(request: Request, seed: int | None) -> Request:
    """The request with a seed where it has none."""
    return dataclasses.replace(
        request, sampling=request.sampling.with_fallback(Sampling(seed=seed))
    )


T = TypeVar("T")


Job = Generator[Request, str, T]
"""Yields a request, gets the text that is said, or the `ChatlmError` that was raised, and so on;
returns what comes of it."""


@dataclass
class _RunningJob:
    index: int
    job: Job[Any]
    text: str = ""


def run_jobs(engine: Engine, jobs: Iterable[Job[T]]) -> Generator[tuple[int, T], None, None]:
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
    running: dict[int, _RunningJob] = {}
    failure: ChatlmError | None = None
    with closing(engine.batch()) as batch:

        def go_on(each: _RunningJob, step: Callable[[], Request]) -> Iterator[tuple[int, T]]:
            """Ask what a job wants to know next, or give what came of it."""
            nonlocal failure
            each.text = ""
            try:
                running[batch.add(step())] = each
            except StopIteration as end:
                yield each.index, end.value
            except ChatlmError as error:
                failure = failure or error

        while True:
            while not failure and len(batch) < batch.max_concurrency:
                begun = next(waiting, None)
                if begun is None:
                    break
                each = _RunningJob(*begun)
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
