"""Lets contestants answer: the one place where the arena asks an engine; knows no match."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from chatlm import (
    ChatlmError,
    ContextTooLong,
    Delta,
    Finished,
    Fitted,
    Request,
    Sampling,
    SideChat,
    StopReason,
    Usage,
    UsageError,
)
from chatlm_arena.contestants import Contestant
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

    What the contestant refuses, or has no room for, is its reply, with the stop reason `error`.

    Args:
        order: what is wanted.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
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
            ChatlmError: the set-up does not work, such as a model or adapter that is not there.
        """
        order, chat = self._order, self._order.seat.chat
        try:
            yield ""
            self._request = request = seeded(chat.request(order.prompt), order.seed)
            self._model = chat.engine.info.model
            with closing(chat.stream(request)) as events:
                for event in events:
                    match event:
                        case Fitted():
                            self._hash = event.prompt_hash
                        case Delta():
                            self._text, self._usage = self._text + event.text, event.usage
                        case Finished():
                            self._reason, self._usage = event.stop_reason, event.usage
                    yield self._text
        except (UsageError, ContextTooLong) as error:
            self._reason = StopReason.ERROR
            self._text = self._text or str(error)
            yield self._text
        except ChatlmError:
            self._reason = StopReason.ERROR
            raise

    @property
    def reply(self) -> MatchReply:
        """What was said so far, and what made it."""
        order, request = self._order, self._request
        made_by = dataclasses.asdict(self._usage) | {
            "model": self._model,
            "adapter": request.adapter if request else None,
            "sampling": request.sampling.to_dict() if request else {},
            "prompt_hash": self._hash,
        }
        return MatchReply(
            order.seat.contestant.id, order.turn, order.prompt, self._text, self._reason, made_by
        )


def generate(orders: Sequence[Order]) -> Iterator[tuple[int, MatchReply]]:
    """Answer several orders, each as soon as it is complete; in which order is for this function.

    Orders of one model come together, so that models which do not fit side by side are loaded as
    rarely as can be.

    Yields:
        the index of an order, and the reply.

    Raises:
        ChatlmError: as `Answering.run`; what was yielded before stands.
    """
    by_model = sorted(range(len(orders)), key=lambda at: orders[at].seat.chat.setup.model)
    for at in by_model:
        answering = Answering(orders[at])
        for _ in answering.run():
            pass
        yield at, answering.reply


def seeded(request: Request, seed: int | None) -> Request:
    """The request with a seed where it has none."""
    return dataclasses.replace(request, sampling=request.sampling.over(Sampling(seed=seed)))
