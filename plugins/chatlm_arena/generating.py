"""Lets contestants answer: the one place where the arena asks an engine; knows no match."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from chatlm import (
    ChatlmError,
    ContextTooLong,
    Delta,
    Engine,
    EngineEvent,
    Finished,
    Fitted,
    MessageRefused,
    Request,
    Sampling,
    SideChat,
    StopReason,
    Usage,
    UsageError,
    one_line,
    stream_many,
)
from chatlm_arena.contestants import LONGEST_NAME, Contestant
from chatlm_arena.records import MatchReply

K = TypeVar("K")
Guard = Callable[[Contestant], AbstractContextManager[None]]


@dataclass(frozen=True)
class Seat:
    """A contestant in one chat."""

    contestant: Contestant
    chat: SideChat


@dataclass(frozen=True)
class Order:
    """One reply that is wanted."""

    seat: Seat
    prompt: str
    turn: int
    seed: int | None = None
    """Holds where the contestant has none of its own; None leaves it to the engine."""


class Answering:
    """One reply as it grows; `reply` may be read at any time.

    A message that the contestant refuses, or has no room for, has that as its reply, with the stop
    reason `error`.

    Args:
        order: what is wanted.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self._request: Request | None = None
        self._model = ""
        self._text = ""
        self._hash = ""
        self._usage = Usage()
        self._reason = StopReason.CANCELLED

    def run(self) -> Generator[str, None, None]:
        """Answer, pulled token by token; closing it ends the reply at once.

        Yields:
            the whole text so far.

        Raises:
            ChatlmError: the set-up does not work, such as an adapter or an index that is gone.
        """
        if self.begin():
            yield from self._grow()
        else:
            yield self._text

    def begin(self) -> bool:
        """Make the request, once; False where no engine is to be asked, since the reply is there.

        That is so where the contestant refuses, which then is the reply.

        Raises:
            ChatlmError: as `run`.
        """
        order, chat = self.order, self.order.seat.chat
        if self._request or self.ended:
            return not self.ended
        try:
            self._request = seeded(chat.request(order.prompt), order.seed)
            self._model = chat.engine.info.model
            for event in chat.given(self._request):
                self.take(event)
        except (MessageRefused, ContextTooLong) as error:
            self._refuse(error)
            return False
        except ChatlmError:
            self._reason = StopReason.ERROR
            raise
        return not self.ended

    def _grow(self) -> Generator[str, None, None]:
        try:
            with closing(self.engine.stream(self.request)) as events:
                for event in events:
                    self.take(event)
                    yield self._text
        except (MessageRefused, ContextTooLong) as error:
            self._refuse(error)
            yield self._text
        except ChatlmError:
            self._reason = StopReason.ERROR
            raise

    def take(self, event: EngineEvent) -> None:
        """Let the reply grow by what an engine reports."""
        match event:
            case Fitted():
                self._hash = event.prompt_hash
            case Delta():
                self._text, self._usage = self._text + event.text, event.usage
            case Finished():
                self._reason, self._usage = event.stop_reason, event.usage

    @property
    def text(self) -> str:
        """What was said so far."""
        return self._text

    @property
    def ended(self) -> bool:
        """Whether the reply is complete, was refused or failed."""
        return self._reason is not StopReason.CANCELLED

    @property
    def request(self) -> Request:
        """What `begin` made."""
        if self._request is None:
            raise RuntimeError("nothing was asked yet")
        return self._request

    @property
    def engine(self) -> Engine:
        """The contestant's; loaded first where it is not there."""
        return self.order.seat.chat.engine

    @property
    def reply(self) -> MatchReply:
        """What was said so far, and what made it."""
        order, request = self.order, self._request
        made_by = dataclasses.asdict(self._usage) | {
            "model": self._model,
            "adapter": request.adapter if request else None,
            "sampling": request.sampling.to_dict() if request else {},
            "prompt_hash": self._hash,
        }
        return MatchReply(
            order.seat.contestant.id, order.turn, order.prompt, self._text, self._reason, made_by
        )

    def _refuse(self, error: ChatlmError) -> None:
        self._reason = StopReason.ERROR
        self._text = self._text or str(error)


def generate(orders: Sequence[Order]) -> Iterator[tuple[int, MatchReply]]:
    """Answer several orders, each as soon as it is complete; in which order is for this function.

    Orders of one model come together, so that models which do not fit side by side are loaded as
    rarely as can be.

    Yields:
        the index of an order, and the reply.

    Raises:
        UsageError: a contestant's set-up does not work; whose is said. What was yielded before
            stands.
    """
    by_model = sorted(range(len(orders)), key=lambda at: orders[at].seat.chat.setup.model)
    for _, places in groupby(by_model, key=lambda at: orders[at].seat.chat.setup.model):
        answerings = {at: Answering(orders[at]) for at in places}
        with closing(together(answerings, naming)) as grown:
            for at in grown:
                if answerings[at].ended:
                    yield at, answerings[at].reply


def together(
    answerings: dict[K, Answering], guard: Guard = lambda _: nullcontext()
) -> Generator[K, None, None]:
    """Answer orders of one model, at once where its engine can do that; closing it stops all.

    Args:
        answerings: what is to be answered; one that has to begin anew is replaced.
        guard: around whatever is done for one contestant alone.

    Yields:
        the key of one that has grown, for the last time when it has ended.

    Raises:
        ChatlmError: as `Answering.run`.
    """

    def alone(key: K) -> Iterator[K]:
        with guard(answerings[key].order.seat.contestant):
            for _ in answerings[key].run():
                yield key

    asked = []
    for key, answering in answerings.items():
        with guard(answering.order.seat.contestant):
            begun = answering.begin()
        if begun:
            asked.append(key)
        else:
            yield key
    if not asked:
        return
    requests = [answerings[key].request for key in asked]
    try:
        with closing(stream_many(answerings[asked[0]].engine, requests)) as events:
            for place, event in events:
                answerings[asked[place]].take(event)
                yield asked[place]
    except ChatlmError:  # of one of them; each is told by itself
        for key in asked:
            if not answerings[key].ended:
                answerings[key] = Answering(answerings[key].order)
                yield from alone(key)


@contextmanager
def naming(contestant: Contestant) -> Iterator[None]:
    """Say who could not answer, which the reason alone would not tell."""
    try:
        yield
    except ChatlmError as error:
        name = one_line(contestant.name, LONGEST_NAME)
        raise UsageError(f"{name} could not answer. {error.message}", hint=error.hint) from error


def seeded(request: Request, seed: int | None) -> Request:
    """The request with a seed where it has none."""
    return dataclasses.replace(request, sampling=request.sampling.over(Sampling(seed=seed)))
