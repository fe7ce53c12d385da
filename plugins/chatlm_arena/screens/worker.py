"""The arena's work beside the screen: it plays in a thread and reports; knows no widget."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from threading import Event

from textual.message import Message

from chatlm import ChatlmError, SideChats
from chatlm_arena.match import LiveMatch, RevealedSide, SideUpdate, choose_contestants
from chatlm_arena.pairing import Pairing
from chatlm_arena.ratings import EloRules
from chatlm_arena.settings import Settings
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.votes import Verdict

UPDATE_INTERVAL = 1 / 30
"""Between two reports of a growing reply."""


@dataclass
class SideUpdated(Message):
    """A side said something."""

    side_update: SideUpdate


@dataclass
class AnswersEnded(Message):
    """Nobody says anything more."""

    error: ChatlmError | None = None
    """What went wrong."""


@dataclass
class Voted(Message):
    """A vote is kept, or could not be."""

    verdict: Verdict
    revealed: tuple[RevealedSide, ...] = ()
    """Left and right."""
    error: ChatlmError | None = None


PostMessage = Callable[[Message], object]


class MatchWorker:
    """Chooses who plays and lets them answer; one call at a time, in a thread.

    Args:
        store: the arena.
        chats: in which the contestants answer.
        settings: the person's.
        post_message: takes each message.
        rng: chance.
    """

    def __init__(
        self,
        store: ArenaStore,
        chats: SideChats,
        settings: Settings,
        post_message: PostMessage,
        rng: random.Random,
    ) -> None:
        self.store = store
        self._chats = chats
        self._settings = settings
        self._post_message = post_message
        self._rng = rng
        self.live_match: LiveMatch | None = None
        """The match; None before its first message."""
        self.stop_event = Event()
        """Set to end what is going on or about to begin; cleared by who begins the next."""

    def send(self, text: str) -> None:
        """Let both answer; the first message of a match decides who plays."""
        self._run_stream(lambda: self._current_match().send(text))

    def regenerate(self) -> None:
        """Let both answer once more."""
        self._run_stream(lambda: self._current_match().regenerate())

    def vote(self, verdict: Verdict, elo_rules: EloRules) -> None:
        """Keep a verdict on the match."""
        try:
            if self.live_match is not None:
                self._post_message(Voted(verdict, self.live_match.vote(verdict, elo_rules)))
        except ChatlmError as error:
            self._post_message(Voted(verdict, error=error))

    def _current_match(self) -> LiveMatch:
        if self.live_match is None:
            pair = choose_contestants(self.store, Pairing(self._settings.pairing), self._rng)
            self.live_match = LiveMatch(
                self.store,
                self._chats,
                *pair,
                same_seed=self._settings.same_seed,
                rng=self._rng,
            )
        return self.live_match

    def _run_stream(self, open_stream: Callable[[], Generator[SideUpdate, None, None]]) -> None:
        error = None
        try:
            with closing(open_stream()) as events:
                last = 0.0
                for event in events:
                    now = time.monotonic()
                    if event.ended or not event.text or now - last >= UPDATE_INTERVAL:
                        last = now
                        self._post_message(SideUpdated(event))
                    if self.stop_event.is_set():
                        break
        except ChatlmError as problem:
            error = problem
        self._post_message(AnswersEnded(error))
