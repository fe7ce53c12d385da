"""Lets contestants answer: the one place where the arena asks an engine; knows no match."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby

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
        yield ""
        if self.begin():
            yield from self.grow()
        else:
            yield self._text

    def begin(self) -> bool:
        """Make the request; False where the contestant refuses, and `reply` is the refusal.

        Raises:
            ChatlmError: as `run`.
        """
        order, chat = self.order, self.order.seat.chat
        try:
            self._request = seeded(chat.request(order.prompt), order.seed)
            self._model = chat.engine.info.model
        except (MessageRefused, ContextTooLong) as error:
            self._refuse(error)
            return False
        except ChatlmError:
            self._reason = StopReason.ERROR
            raise
        return True

    def grow(self) -> Generator[str, None, None]:
        """Answer what `begin` made; as `run`."""
        try:
            with closing(self.order.seat.chat.stream(self.request)) as events:
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
        yield from _of_one_model({at: Answering(orders[at]) for at in places})


def _of_one_model(answerings: dict[int, Answering]) -> Iterator[tuple[int, MatchReply]]:
    """Answer orders of one model, together where its engine can do that."""
    asked = []
    for at, answering in answerings.items():
        if not _begun(answering):
            yield at, answering.reply
        elif answering.request.complete:
            yield from _alone(at, answering)
        else:
            asked.append(at)
    if not asked:
        return
    engine = answerings[asked[0]].engine
    requests = [answerings[at].request for at in asked]
    left = dict.fromkeys(asked)
    try:
        with closing(stream_many(engine, requests)) as events:
            for place, event in events:
                at = asked[place]
                answerings[at].take(event)
                if isinstance(event, Finished):
                    del left[at]
                    yield at, answerings[at].reply
    except ChatlmError:  # of one of them; each is told by itself
        for at in left:
            again = Answering(answerings[at].order)
            if _begun(again):
                yield from _alone(at, again)
            else:
                yield at, again.reply


def _begun(answering: Answering) -> bool:
    with naming(answering.order.seat.contestant):
        return answering.begin()


def _alone(at: int, answering: Answering) -> Iterator[tuple[int, MatchReply]]:
    with naming(answering.order.seat.contestant):
        for _ in answering.grow():
            pass
    yield at, answering.reply


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
