"""One blind match from its first message to its vote; knows no screen and makes no thread."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain

import numpy as np

from chatlm import ChatlmError, SideChats, StopReason, UsageError
from chatlm_arena.answers import AnswerRequest, AnswerWriter, Seat, stream_answers
from chatlm_arena.contestants import Contestant, identifying_words, mask_words
from chatlm_arena.pairing import Pairing, choose_pair
from chatlm_arena.ratings import EloRules, elo_ratings
from chatlm_arena.records import HUMAN, SIDES, MatchReply, Side
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.votes import Verdict, tally_votes, votes_between

SEED_LIMIT = 2**31


SideAnswer = tuple[Side, AnswerWriter]


@dataclass(frozen=True)
class SideUpdate:
    """A side said something."""

    side: Side
    text: str
    """All of its reply so far, with names hidden."""
    ended: bool = False


@dataclass(frozen=True)
class RevealedSide:
    """One side after the vote."""

    name: str
    description: str
    """Its set-up in a few words."""
    rating_before: float
    """Its Elo rating before the vote."""
    rating_after: float
    tokens: int
    seconds: float
    """That its replies took."""


def choose_contestants(
    store: ArenaStore, pairing: Pairing, rng: random.Random
) -> tuple[Contestant, Contestant]:
    """The two that meet next, left and right; who is on which side is left to chance.

    Raises:
        UsageError: fewer than two can play.
    """
    able = {c.name: c for c in store.contestants() if c.setup is not None}
    if len(able) < 2:
        raise UsageError(
            "A match needs two contestants.",
            hint="Add one by /arena add NAME, which takes this chat's set-up, or by\n"
            "chatlm arena contestants add NAME --model … -s temperature=0.2",
        )
    cells = tally_votes(votes_between(store.votes(), list(able)))
    pair = list(choose_pair(cells, pairing, np.random.default_rng(rng.randrange(SEED_LIMIT))))
    rng.shuffle(pair)
    one, other = (able[tuple(able)[at]] for at in pair)
    return one, other


class LiveMatch:
    """A match that is being played.

    Args:
        store: keeps what is said.
        chats: in which the contestants answer.
        left: who sits on the left.
        right: who sits on the right.
        same_seed: whether both draw by the same random numbers.
        rng: chance.
    """

    def __init__(
        self,
        store: ArenaStore,
        chats: SideChats,
        left: Contestant,
        right: Contestant,
        *,
        same_seed: bool,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._chats = chats
        self._rng = rng
        self._same_seed = same_seed
        self._seats = {
            side: Seat(contestant, chats.begin(contestant.setup))
            for side, contestant in zip(SIDES, (left, right), strict=True)
            if contestant.setup is not None
        }
        self._identifying_words = identifying_words((left, right))
        self._replies: dict[Side, list[MatchReply]] = {side: [] for side in SIDES}
        self._match = store.add_match(left, right)
        self._prompt = ""
        self.turn = -1
        """Of the newest message, 0 for the first; -1 before it."""

    @property
    def can_vote(self) -> bool:
        """Whether both sides answered the newest message."""
        return self.turn >= 0 and all(len(said) == self.turn + 1 for said in self._replies.values())

    def send(self, text: str) -> Generator[SideUpdate, None, None]:
        """Let both answer a message; who begins is for chance to decide.

        Closing it stops both; what was said is kept.

        Raises:
            UsageError: the text is blank, or the newest message is not answered by both.
            ChatlmError: a contestant's set-up does not work.
        """
        if not text.strip():
            raise UsageError("There is nothing to send", hint="Type a message first.")
        if self.turn >= 0:
            if not self.can_vote:
                raise UsageError("Both have to answer first.", hint="Let them answer again.")
            for side in SIDES:
                said = self._replies[side][-1]
                if said.text.strip():
                    self._seats[side].chat.add(self._prompt, said.text)
        self.turn += 1
        self._prompt = text
        yield from self._stream_updates()

    def regenerate(self) -> Generator[SideUpdate, None, None]:
        """Let both answer the newest message once more, in place of what they said."""
        for said in self._replies.values():
            del said[self.turn :]
        yield from self._stream_updates()

    def vote(self, verdict: Verdict, elo_rules: EloRules) -> tuple[RevealedSide, RevealedSide]:
        """Keep the verdict, and tell who was who, left and right.

        Raises:
            UsageError: both have to answer first, or there is a vote already.
        """
        if not self.can_vote:
            raise UsageError("Both have to answer first.", hint="Let them answer again.")
        before = _elo_by_name(self._store, elo_rules)
        self._store.add_vote(self._match, verdict, HUMAN)
        after = _elo_by_name(self._store, elo_rules)
        left, right = (
            self._reveal_side(side, before.get(name, elo_rules.initial_rating), after[name])
            for side in SIDES
            for name in (self._seats[side].contestant.name,)
        )
        return left, right

    def _stream_updates(self) -> Generator[SideUpdate, None, None]:
        seed = self._rng.randrange(SEED_LIMIT)
        order = list(SIDES)
        self._rng.shuffle(order)
        asked = {
            side: AnswerWriter(
                AnswerRequest(
                    self._seats[side],
                    self._prompt,
                    self.turn,
                    seed if self._same_seed else self._rng.randrange(SEED_LIMIT),
                )
            )
            for side in order
        }
        for side in order:
            yield SideUpdate(side, "")
        speaking = set(order)
        try:
            with closing(self._stream_answers(asked)) as grown:
                for side, answering in grown:
                    if answering.ended:
                        speaking.remove(side)
                        self._store_reply(side, answering.reply)
                    yield SideUpdate(
                        side,
                        mask_words(answering.text, self._identifying_words),
                        ended=answering.ended,
                    )
        finally:
            for side in speaking:
                self._store_reply(side, asked[side].reply)

    def _stream_answers(
        self, writers: dict[Side, AnswerWriter]
    ) -> Generator[SideAnswer, None, None]:
        """The side whose reply has grown, until both have ended.

        One model answers for both at once. Two speak token by token in turn, or one after the other
        where the memory does not hold both.
        """
        left, right = (self._seats[side].chat for side in SIDES)
        try:
            one = left.setup.model == right.setup.model or left.engine is right.engine
            apart = self._chats.swaps_models
        except ChatlmError:
            one, apart = False, True  # the side itself will tell
        if one:
            yield from stream_answers(writers.items())
            return
        with ExitStack() as both:
            sides = [
                both.enter_context(closing(stream_answers([each]))) for each in writers.items()
            ]
            yield from chain.from_iterable(sides) if apart else _round_robin(sides)

    def _store_reply(self, side: Side, reply: MatchReply) -> None:
        """A reply that was stopped or failed before it began is none."""
        if reply.text or reply.stop_reason not in (StopReason.CANCELLED, StopReason.ERROR):
            self._replies[side].append(self._store.add_reply(self._match, side, reply))

    def _reveal_side(self, side: Side, rating_before: float, rating_after: float) -> RevealedSide:
        contestant, said = self._seats[side].contestant, self._replies[side]
        return RevealedSide(
            name=contestant.name,
            description=contestant.description,
            rating_before=rating_before,
            rating_after=rating_after,
            tokens=sum(reply.tokens or 0 for reply in said),
            seconds=sum(reply.seconds or 0.0 for reply in said),
        )


def _round_robin(streams: Sequence[Iterator[SideAnswer]]) -> Iterator[SideAnswer]:
    """One item of each stream after the other, until all have ended."""
    left = list(streams)
    while left:
        for stream in list(left):
            try:
                yield next(stream)
            except StopIteration:
                left.remove(stream)


def _elo_by_name(store: ArenaStore, elo_rules: EloRules) -> dict[str, float]:
    votes = store.votes()
    return dict(zip(votes.names, elo_ratings(votes, elo_rules).tolist(), strict=True))
