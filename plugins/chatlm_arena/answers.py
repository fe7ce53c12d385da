"""Generate answers of contestants in batches, and run jobs that ask a model several times."""

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
    ContentFiltered,
    ContextTooLong,
    Delta,
    Engine,
    EngineEvent,
    Finished,
    MessageRefused,
    PreparedImage,
    PromptReady,
    ReplyStep,
    Request,
    Sampling,
    SideChat,
    StopReason,
    Text,
    ToolCall,
    Usage,
    UsageError,
    one_line,
)
from chatlm_arena.contestants import MAX_NAME_CHARACTERS, Contestant
from chatlm_arena.records import MatchReply

K = TypeVar("K")
T = TypeVar("T")

ContestantGuard = Callable[[Contestant], AbstractContextManager[None]]
"""Opens a context around the work for one contestant, for example to name it in errors."""


@dataclass(frozen=True)
class Seat:
    """A contestant in one chat."""

    contestant: Contestant
    chat: SideChat


@dataclass(frozen=True)
class AnswerRequest:
    """One reply to generate."""

    seat: Seat
    prompt: str
    turn: int
    seed: int | None = None
    """Used if the contestant's set-up has no seed; None lets the engine choose."""
    images: tuple[PreparedImage, ...] = ()
    """The message's images."""


class AnswerWriter:
    """A reply while it is generated; `reply` may be read at any time.

    If the contestant or its server's content filter refuses the message, or the message does not
    fit its context, the error is the reply's text, with the stop reason `error`.

    Args:
        answer_request: the reply to generate.
    """

    def __init__(self, answer_request: AnswerRequest) -> None:
        self.answer_request = answer_request
        self._request: Request | None = None
        self._model = ""
        self._text = ""
        self._steps: tuple[ReplyStep, ...] = ()
        """Outputs of the model that called tools, with the results."""
        self._step_start = 0
        """Length of the text before the running step."""
        self._calls: tuple[ToolCall, ...] = ()
        """Calls that have not run yet."""
        self._step_usage = Usage()
        self._prompt_hash = ""
        self._earlier_usage = Usage()
        """Of the steps so far."""
        self._stop_reason = StopReason.CANCELLED

    def start(self) -> bool:
        """Build the request, unless it was built before.

        Returns:
            False if the reply is already complete and needs no engine, as after a refusal.

        Raises:
            ChatlmError: the set-up does not work, for example because its adapter is missing.
        """
        chat = self.answer_request.seat.chat
        if self._request or self.ended:
            return not self.ended
        try:
            self._request = with_default_seed(
                chat.request(self.answer_request.prompt, images=self.answer_request.images),
                self.answer_request.seed,
            )
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
        """Add an event of the engine's batch to the reply.

        Raises:
            ChatlmError: the engine failed.
        """
        match event:
            case MessageRefused() | ContextTooLong() | ContentFiltered():
                self._refuse(event)
            case Exception():
                self._stop_reason = StopReason.ERROR
                raise event
            case PromptReady():
                self._prompt_hash = event.prompt_hash
            case Delta():
                self._text, self._step_usage = self._text + event.answer, event.usage
            case Finished():
                self._step_usage = event.usage
                if event.tool_calls and not self.request.sampling.reply_method:
                    self._calls = event.tool_calls
                    return
                self._stop_reason = event.stop_reason.if_answered(bool(self._text.strip()))

    @property
    def calls_tools(self) -> bool:
        """Whether `run_tools` must be called for the reply to go on."""
        return bool(self._calls)

    def run_tools(self) -> None:
        """Run what the model called, and build the request of the next step.

        Raises:
            ChatlmError: as `start`.
        """
        chat, prompt = self.answer_request.seat.chat, self.answer_request.prompt
        said = self._text[self._step_start :]
        parts: list[Text | ToolCall] = [Text(said)] if said else []
        step = ReplyStep((*parts, *self._calls), StopReason.TOOL_CALLS, self._step_usage)
        self._steps = chat.run_tools(prompt, (*self._steps, step))
        self._earlier_usage, self._step_usage = self._usage, Usage()
        self._calls, self._step_start = (), len(self._text)
        if self._steps[-1].stop_reason is StopReason.TOOL_LIMIT:
            self._stop_reason = StopReason.TOOL_LIMIT
            return
        try:
            self._request = with_default_seed(
                chat.request(prompt, self._steps, self.answer_request.images),
                self.answer_request.seed,
            )
        except (MessageRefused, ContextTooLong) as error:
            self._refuse(error)

    @property
    def _usage(self) -> Usage:
        """What the reply has cost so far, over all steps."""
        before, now = self._earlier_usage, self._step_usage
        if not self._steps:
            return now
        return dataclasses.replace(
            now,
            completion_tokens=before.completion_tokens + now.completion_tokens,
            first_token_seconds=before.first_token_seconds,
            decode_seconds=before.decode_seconds
            + (now.first_token_seconds or 0.0)
            + now.decode_seconds,
            reasoning_tokens=before.reasoning_tokens + now.reasoning_tokens,
        )

    @property
    def text(self) -> str:
        """The text generated so far."""
        return self._text

    @property
    def ended(self) -> bool:
        """Whether the reply is complete, was refused or has failed."""
        return self._stop_reason is not StopReason.CANCELLED

    @property
    def request(self) -> Request:
        """The request that `start` built."""
        if self._request is None:
            raise RuntimeError("call start() first")
        return self._request

    @property
    def engine(self) -> Engine:
        """The contestant's engine, loaded on first use."""
        return self.answer_request.seat.chat.engine

    @property
    def reply(self) -> MatchReply:
        """The reply generated so far, with its provenance."""
        answer_request, request = self.answer_request, self._request
        provenance = self._usage.to_dict() | {
            "model": self._model,
            "adapter": request.adapter if request else None,
            "sampling": request.sampling.to_dict() if request else {},
            "prompt_hash": self._prompt_hash,
        }
        if self._steps:
            rest = Text(self._text[self._step_start :])
            last = ReplyStep((rest,), self._stop_reason, self._step_usage)
            provenance["steps"] = [step.to_dict() for step in (*self._steps, last)]
        return MatchReply(
            answer_request.seat.contestant.id,
            answer_request.turn,
            answer_request.prompt,
            self._text,
            self._stop_reason,
            provenance,
            images=tuple(each.image for each in answer_request.images),
        )

    def _refuse(self, error: ChatlmError) -> None:
        self._stop_reason = StopReason.ERROR
        self._text = self._text or str(error)


def generate_answers(
    answer_requests: Iterable[AnswerRequest],
) -> Generator[tuple[int, MatchReply], None, None]:
    """Generate replies in batches; the engine decides in which order they finish.

    Args:
        answer_requests: read lazily. Those of one model must be adjacent, so that models that do
            not fit in memory together are loaded as rarely as possible.

    Yields:
        The index of a request, and its reply.

    Raises:
        UsageError: the set-up of a contestant, which is named, does not work.
    """
    for _, group in groupby(
        enumerate(answer_requests), key=lambda numbered: numbered[1].seat.chat.setup.model
    ):
        writers = ((index, AnswerWriter(request)) for index, request in group)
        with closing(stream_answers(writers, name_contestant_in_errors)) as updates:
            for index, writer in updates:
                if writer.ended:
                    yield index, writer.reply


def stream_answers(
    writers: Iterable[tuple[K, AnswerWriter]], guard: ContestantGuard = lambda _: nullcontext()
) -> Generator[tuple[K, AnswerWriter], None, None]:
    """Generate replies of one model, concurrently if its engine can; closing cancels them all.

    Args:
        writers: the replies by key, read lazily while the batch has free slots.
        guard: entered around the work for one contestant.

    Yields:
        The key and writer of a reply that has grown; for the last time when it has ended.

    Raises:
        ChatlmError: as `AnswerWriter.start` and `add`, once the running replies have ended.
    """
    waiting = iter(writers)
    running: dict[int, tuple[K, AnswerWriter]] = {}
    failure: ChatlmError | None = None
    with ExitStack() as opened:
        batch: Batch | None = None
        while True:
            while not failure and (batch is None or len(batch) < batch.max_concurrency):
                entry = next(waiting, None)
                if entry is None:
                    break
                _, writer = entry
                try:
                    with guard(writer.answer_request.seat.contestant):
                        needs_engine = writer.start()
                except ChatlmError as error:
                    failure = error
                    break
                if not needs_engine:
                    yield entry
                    continue
                if writer.request.sampling.reply_method:
                    try:
                        with guard(writer.answer_request.seat.contestant):
                            yield from _stream_by_method(entry)
                    except ChatlmError as error:
                        failure = error
                    continue
                if batch is None:
                    batch = opened.enter_context(closing(writer.engine.batch()))
                running[batch.add(writer.request)] = entry
            if batch is None or not len(batch):
                break
            for number, event in batch.step():
                key, writer = running[number]
                try:
                    with guard(writer.answer_request.seat.contestant):
                        writer.add(event)
                except ChatlmError as error:
                    failure = failure or error
                else:
                    yield key, writer
                    if not writer.calls_tools:
                        continue
                    try:
                        with guard(writer.answer_request.seat.contestant):
                            writer.run_tools()
                    except ChatlmError as error:
                        failure = failure or error
                        continue
                    if writer.ended:
                        yield key, writer
                    else:
                        running[batch.add(writer.request)] = key, writer
    if failure:
        raise failure


def _stream_by_method(entry: tuple[K, AnswerWriter]) -> Iterator[tuple[K, AnswerWriter]]:
    """Generate one reply by its method, which runs the engine's batch itself."""
    _, writer = entry
    with closing(writer.answer_request.seat.chat.stream(writer.request)) as events:
        for event in events:
            writer.add(event)
            yield entry


@contextmanager
def name_contestant_in_errors(contestant: Contestant) -> Iterator[None]:
    """Name the contestant in errors that are raised inside the context."""
    try:
        yield
    except ChatlmError as error:
        name = one_line(contestant.name, MAX_NAME_CHARACTERS)
        raise UsageError(f"{name} could not answer. {error.message}", hint=error.hint) from error


def with_default_seed(request: Request, seed: int | None) -> Request:
    """Return the request with `seed` if it has no seed."""
    return dataclasses.replace(
        request, sampling=request.sampling.with_fallback(Sampling(seed=seed))
    )


Job = Generator[Request, str, T]
"""Yields requests; each is answered with the reply's text or the raised `ChatlmError`; returns the
result."""


@dataclass
class _RunningJob:
    index: int
    generator: Job[Any]
    text: str = ""


def run_jobs(engine: Engine, jobs: Iterable[Job[T]]) -> Generator[tuple[int, T], None, None]:
    """Run jobs concurrently; closing cancels them all.

    Args:
        engine: answers their requests.
        jobs: read lazily while the batch has free slots.

    Yields:
        The index of a job, and its result.

    Raises:
        ChatlmError: a job raised it; the running jobs have ended.
    """
    waiting = enumerate(jobs)
    running: dict[int, _RunningJob] = {}
    failure: ChatlmError | None = None
    with closing(engine.batch()) as batch:

        def advance(job: _RunningJob, step: Callable[[], Request]) -> Iterator[tuple[int, T]]:
            """Add a job's next request to the batch, or yield the job's result."""
            nonlocal failure
            job.text = ""
            try:
                running[batch.add(step())] = job
            except StopIteration as end:
                yield job.index, end.value
            except ChatlmError as error:
                failure = failure or error

        while True:
            while not failure and len(batch) < batch.max_concurrency:
                numbered = next(waiting, None)
                if numbered is None:
                    break
                job = _RunningJob(*numbered)
                yield from advance(job, partial(next, job.generator))
            if not len(batch):
                break
            for number, event in batch.step():
                job = running[number]
                if isinstance(event, Delta):
                    job.text += event.answer
                elif isinstance(event, Finished):
                    yield from advance(running.pop(number), partial(job.generator.send, job.text))
                elif isinstance(event, Exception):
                    yield from advance(running.pop(number), partial(job.generator.throw, event))
    if failure:
        raise failure
