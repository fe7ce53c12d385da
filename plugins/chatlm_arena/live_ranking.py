"""A blind ranking: several contestants answer one message, and the user puts them in order."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from chatlm import ChatlmError, PreparedImage, SideChats, StopReason, UsageError
from chatlm_arena.answers import (
    AnswerRequest,
    AnswerWriter,
    Seat,
    name_contestant_in_errors,
    stream_answers,
)
from chatlm_arena.contestants import Contestant, identifying_words, mask_words
from chatlm_arena.match import SEED_LIMIT, RevealedSide, elo_by_name
from chatlm_arena.ranking import MAX_RANKED
from chatlm_arena.ratings import EloRules
from chatlm_arena.records import HUMAN, MatchReply
from chatlm_arena.store.store import ArenaStore


@dataclass(frozen=True)
class AnswerUpdate:
    """An answer has grown or ended."""

    index: int
    """Of the answer, in the order in which they are shown."""
    text: str
    """The whole answer so far, with identifying words masked."""
    ended: bool


def choose_ranked(store: ArenaStore, rng: random.Random) -> list[Contestant]:
    """Choose the contestants of a ranking, in random order: all that can play, up to `MAX_RANKED`.

    Raises:
        UsageError: fewer than two can play.
    """
    playable = [each for each in store.contestants() if each.setup is not None]
    if len(playable) < 2:
        raise UsageError(
            "A ranking needs two contestants.",
            hint="Add this chat's set-up: /arena add NAME",
        )
    return rng.sample(playable, min(len(playable), MAX_RANKED))


class LiveRanking:
    """A ranking that is being played, about one message.

    Args:
        store: saves the answers and the votes.
        chats: creates the chats in which the contestants answer.
        contestants: in the order in which their answers are shown; each has a set-up.
        rng: draws the seeds.
    """

    def __init__(
        self,
        store: ArenaStore,
        chats: SideChats,
        contestants: Sequence[Contestant],
        rng: random.Random,
    ) -> None:
        self._store = store
        self._seats = [
            Seat(each, chats.begin(each.setup)) for each in contestants if each.setup is not None
        ]
        self._rng = rng
        self._identifying_words = identifying_words(contestants)
        self._images: tuple[PreparedImage, ...] = ()
        self._replies: dict[int, MatchReply] = {}

    @property
    def size(self) -> int:
        """Number of answers."""
        return len(self._seats)

    @property
    def can_rank(self) -> bool:
        """Whether all have answered."""
        return len(self._replies) == self.size

    def send(
        self, text: str, images: Sequence[PreparedImage] = ()
    ) -> Generator[AnswerUpdate, None, None]:
        """Let all contestants answer; those of one model together, one model after the other.

        Raises:
            UsageError: a contestant, which is named, cannot read images.
            ChatlmError: a contestant's set-up does not work.
        """
        self._images = tuple(images)
        self._replies.clear()
        for seat in self._seats if images else ():
            with name_contestant_in_errors(seat.contestant):
                seat.chat.check_images(images)
        by_model: dict[str, list[tuple[int, AnswerWriter]]] = {}
        for index, seat in enumerate(self._seats):
            seed = self._rng.randrange(SEED_LIMIT)
            request = AnswerRequest(seat, text, 0, seed, self._images)
            by_model.setdefault(seat.chat.setup.model, []).append((index, AnswerWriter(request)))
        for writers in by_model.values():
            with closing(stream_answers(writers, name_contestant_in_errors)) as updates:
                for index, writer in updates:
                    if writer.ended and _is_answer(writer.reply):
                        self._replies[index] = writer.reply
                    shown = writer.reply.display_text if writer.ended else writer.text
                    yield AnswerUpdate(
                        index, mask_words(shown, self._identifying_words), writer.ended
                    )

    def rank(self, places: Sequence[int], elo_rules: EloRules) -> list[RevealedSide]:
        """Save the order as votes of all pairs, and return who was who.

        Args:
            places: the place of each answer, 1 for the best; equal places are ties.
            elo_rules: of the ratings that are shown.

        Raises:
            UsageError: not all have answered.
        """
        if not self.can_rank:
            raise UsageError("All must answer first.", hint="Start another ranking.")
        before = elo_by_name(self._store, elo_rules)
        answers = [
            (seat.contestant, [self._replies[index]]) for index, seat in enumerate(self._seats)
        ]
        self._store.add_ranking(answers, places, HUMAN, images=self._images)
        after = elo_by_name(self._store, elo_rules)
        return [
            RevealedSide(
                contestant.name,
                contestant.description,
                before.get(contestant.name, elo_rules.initial_rating),
                after[contestant.name],
                reply.tokens or 0,
                reply.seconds or 0.0,
            )
            for contestant, (reply,) in answers
        ]


def _is_answer(reply: MatchReply) -> bool:
    """Return whether a reply can be ranked; an error that the contestant says is one."""
    return bool(reply.text) or reply.stop_reason not in (StopReason.CANCELLED, StopReason.ERROR)


def describe_failure(error: ChatlmError | None) -> str:
    """Return what to say where not all have answered."""
    return str(error) if error else "Stopped before all had answered. Enter starts another ranking."
