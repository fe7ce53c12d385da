"""A blind match between two contestants, from its first message to the vote."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain

import numpy as np

from chatlm import (
    ChatlmError,
    PreparedImage,
    SideChats,
    StopReason,
    UsageError,
    list_installed_models,
    load_config,
    one_line,
)
from chatlm_arena.answers import (
    AnswerRequest,
    AnswerWriter,
    Seat,
    name_contestant_in_errors,
    stream_answers,
)
from chatlm_arena.contestants import (
    MAX_NAME_CHARACTERS,
    Contestant,
    identifying_words,
    mask_words,
)
from chatlm_arena.pairing import Pairing, choose_pair
from chatlm_arena.ratings import EloRules, elo_ratings
from chatlm_arena.records import HUMAN, SIDES, Match, MatchReply, Side
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.votes import Verdict, tally_votes, votes_between

SEED_LIMIT = 2**31
"""Seeds are drawn below this."""

SideAnswer = tuple[Side, AnswerWriter]


@dataclass(frozen=True)
class SideUpdate:
    """A side's reply has grown or ended."""

    side: Side
    text: str
    """The whole reply so far, with identifying words masked."""
    ended: bool = False


@dataclass(frozen=True)
class RevealedSide:
    """One side after the vote."""

    name: str
    description: str
    """A short description of its set-up."""
    rating_before: float
    """Elo rating before the vote."""
    rating_after: float
    """Elo rating after the vote."""
    tokens: int
    """Tokens in all of its replies."""
    seconds: float
    """Time that its replies took."""


def choose_contestants(
    store: ArenaStore, pairing: Pairing, rng: random.Random, *, with_images: bool = False
) -> tuple[Contestant, Contestant]:
    """Choose the contestants of the next match, left and right; the sides are random.

    Args:
        store: has the contestants.
        pairing: how they are chosen.
        rng: draws them and their sides.
        with_images: whether models that are known to read none are left out.

    Raises:
        UsageError: fewer than two can play.
    """
    playable = {c.name: c for c in store.contestants() if c.setup is not None}
    blind = _without_vision(playable.values()) if with_images else []
    for each in blind:
        del playable[each.name]
    if blind and len(playable) < 2:
        names = ", ".join(one_line(each.name, MAX_NAME_CHARACTERS) for each in blind)
        raise UsageError(
            f"A match with images needs two contestants that read them; these cannot: {names}.",
            hint="Add a set-up whose model has vision (`chatlm models list` shows which do), or "
            "send text only.",
        )
    if len(playable) < 2:
        raise UsageError(
            "A match needs two contestants.",
            hint="Add this chat's set-up: /arena add NAME\nOr add another one: "
            "chatlm arena contestants add NAME --model … -s temperature=0.2",
        )
    cells = tally_votes(votes_between(store.votes(), list(playable)))
    pair = list(choose_pair(cells, pairing, np.random.default_rng(rng.randrange(SEED_LIMIT))))
    rng.shuffle(pair)
    one, other = (playable[tuple(playable)[at]] for at in pair)
    return one, other


def _without_vision(contestants: Iterable[Contestant]) -> list[Contestant]:
    """Return those whose models are here and read no images; what others read is known once they
    are loaded."""
    here = {each.name: each for each in list_installed_models() if each.installed}
    default = load_config().model

    def reads_none(contestant: Contestant) -> bool:
        model = here.get((contestant.setup.model if contestant.setup else "") or default)
        return model is not None and "images" not in model.abilities

    return [each for each in contestants if reads_none(each)]


class LiveMatch:
    """A match that is being played.

    Args:
        store: saves the replies and the vote.
        chats: creates the chats in which the contestants answer.
        left: the contestant on the left.
        right: the contestant on the right.
        same_seed: whether both answer with the same seed.
        rng: draws seeds and who answers first.
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
        self._contestants = left, right
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
        self._match: Match
        """Stored with the first message."""
        self._prompt = ""
        self._images: tuple[PreparedImage, ...] = ()
        self.turn = -1
        """Index of the newest message; -1 before the first."""

    @property
    def can_vote(self) -> bool:
        """Whether both sides have answered the newest message."""
        answered = [len(replies) == self.turn + 1 for replies in self._replies.values()]
        return self.turn >= 0 and all(answered)

    def send(
        self, text: str, images: Sequence[PreparedImage] = ()
    ) -> Generator[SideUpdate, None, None]:
        """Send a message to both sides; closing the generator stops them and saves what they wrote.

        Args:
            text: the message.
            images: its images.

        Raises:
            UsageError: the text is blank, the newest message is not answered by both, or a
                contestant, which is named, cannot read images.
            ChatlmError: a contestant's set-up does not work.
        """
        if not text.strip():
            raise UsageError("There is nothing to send.", hint="Type a message first.")
        if self.turn >= 0 and not self.can_vote:
            raise UsageError("Both sides must answer first.", hint="Let them answer again.")
        self.check_images(images)
        if self.turn < 0:
            self._match = self._store.add_match(*self._contestants)
        if self.turn >= 0:
            for side in SIDES:
                reply = self._replies[side][-1]
                if reply.text.strip():
                    steps = reply.steps or reply.text
                    self._seats[side].chat.add(self._prompt, steps, self._images)
        self.turn += 1
        self._prompt, self._images = text, tuple(images)
        yield from self._stream_updates()

    def check_images(self, images: Sequence[PreparedImage]) -> None:
        """Refuse images that a side cannot read; this loads both models.

        Raises:
            UsageError: one cannot; it names the contestant, and models here that can.
            ChatlmError: a model cannot be loaded.
        """
        for side in SIDES if images else ():
            seat = self._seats[side]
            with name_contestant_in_errors(seat.contestant):
                seat.chat.check_images(images)

    def regenerate(self) -> Generator[SideUpdate, None, None]:
        """Let both sides answer the newest message again."""
        for replies in self._replies.values():
            del replies[self.turn :]
        yield from self._stream_updates()

    def vote(self, verdict: Verdict, elo_rules: EloRules) -> tuple[RevealedSide, RevealedSide]:
        """Save the verdict, and return who was on the left and on the right.

        Raises:
            UsageError: a side has not answered yet, or there is already a vote.
        """
        if not self.can_vote:
            raise UsageError("Both sides must answer first.", hint="Let them answer again.")
        before = elo_by_name(self._store, elo_rules)
        self._store.add_vote(self._match, verdict, HUMAN)
        after = elo_by_name(self._store, elo_rules)
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
        writers = {
            side: AnswerWriter(
                AnswerRequest(
                    self._seats[side],
                    self._prompt,
                    self.turn,
                    seed if self._same_seed else self._rng.randrange(SEED_LIMIT),
                    self._images,
                )
            )
            for side in order
        }
        for side in order:
            yield SideUpdate(side, "")
        unfinished = set(order)
        try:
            with closing(self._stream_answers(writers)) as updates:
                for side, writer in updates:
                    if writer.ended:
                        unfinished.remove(side)
                        self._store_reply(side, writer.reply)
                    yield SideUpdate(
                        side,
                        mask_words(
                            writer.reply.display_text if writer.ended else writer.text,
                            self._identifying_words,
                        ),
                        ended=writer.ended,
                    )
        finally:
            for side in unfinished:
                self._store_reply(side, writers[side].reply)

    def _stream_answers(
        self, writers: dict[Side, AnswerWriter]
    ) -> Generator[SideAnswer, None, None]:
        """Yield each side whose reply has grown, until both have ended.

        One model answers for both sides in one batch. Two models take turns token by token, or run
        one after the other if memory cannot hold both.
        """
        left, right = (self._seats[side].chat for side in SIDES)
        try:
            shares_engine = left.setup.model == right.setup.model or left.engine is right.engine
            one_after_other = self._chats.swaps_models
        except ChatlmError:  # raised again when the side itself answers
            shares_engine, one_after_other = False, True
        if shares_engine:
            yield from stream_answers(writers.items())
            return
        with ExitStack() as stack:
            sides = [
                stack.enter_context(closing(stream_answers([entry]))) for entry in writers.items()
            ]
            yield from chain.from_iterable(sides) if one_after_other else _round_robin(sides)

    def _store_reply(self, side: Side, reply: MatchReply) -> None:
        """Save a reply, unless it was stopped or failed before its first token."""
        if reply.text or reply.stop_reason not in (StopReason.CANCELLED, StopReason.ERROR):
            self._replies[side].append(
                self._store.add_reply(self._match, side, reply, self._images)
            )

    def _reveal_side(self, side: Side, rating_before: float, rating_after: float) -> RevealedSide:
        contestant, replies = self._seats[side].contestant, self._replies[side]
        return RevealedSide(
            name=contestant.name,
            description=contestant.description,
            rating_before=rating_before,
            rating_after=rating_after,
            tokens=sum(reply.tokens or 0 for reply in replies),
            seconds=sum(reply.seconds or 0.0 for reply in replies),
        )


def _round_robin(streams: Sequence[Iterator[SideAnswer]]) -> Iterator[SideAnswer]:
    """Yield one item of each stream in turn, until all have ended."""
    open_streams = list(streams)
    while open_streams:
        for stream in list(open_streams):
            try:
                yield next(stream)
            except StopIteration:
                open_streams.remove(stream)


def elo_by_name(store: ArenaStore, elo_rules: EloRules) -> dict[str, float]:
    """Return the Elo rating of each contestant."""
    votes = store.votes()
    return dict(zip(votes.names, elo_ratings(votes, elo_rules).tolist(), strict=True))
