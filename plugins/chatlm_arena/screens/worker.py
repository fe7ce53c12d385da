"""The arena's worker: plays matches in a thread and posts messages to the screen."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from threading import Event

from textual.message import Message

from chatlm import ChatlmError, Image, PreparedImage, SideChats
from chatlm_arena.match import LiveMatch, RevealedSide, SideUpdate, choose_contestants
from chatlm_arena.pairing import Pairing
from chatlm_arena.ratings import EloRules
from chatlm_arena.settings import Settings
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.votes import Verdict

UPDATE_INTERVAL = 1 / 30
"""Seconds between two updates of a growing reply."""


@dataclass
class SideUpdated(Message):
    """A side's reply has grown or ended."""

    side_update: SideUpdate


@dataclass
class MessageRead(Message):
    """What a message mentions was read."""

    text: str
    images: tuple[Image, ...]


@dataclass
class AnswersEnded(Message):
    """Both sides have ended or were stopped."""

    error: ChatlmError | None = None
    """The error that ended them, if any."""


@dataclass
class Voted(Message):
    """A vote was saved, or failed."""

    verdict: Verdict
    revealed: tuple[RevealedSide, ...] = ()
    """Left and right."""
    error: ChatlmError | None = None


PostMessage = Callable[[Message], object]

ReadMessage = Callable[[str], tuple[str, tuple[PreparedImage, ...]]]


class MatchWorker:
    """Chooses contestants and lets them answer; one call at a time, in a thread.

    Args:
        store: the arena's database.
        chats: creates the chats in which the contestants answer.
        settings: the plugin's settings.
        post_message: called with each message for the screen.
        rng: draws contestants, sides and seeds.
        read_message: returns the text and the images of a message; see `chatlm.Ui`.
    """

    def __init__(
        self,
        store: ArenaStore,
        chats: SideChats,
        settings: Settings,
        post_message: PostMessage,
        rng: random.Random,
        read_message: ReadMessage,
    ) -> None:
        self.store = store
        self._chats = chats
        self._settings = settings
        self._post_message = post_message
        self._rng = rng
        self._read_message = read_message
        self.live_match: LiveMatch | None = None
        """The current match; None before its first message."""
        self.stop_event = Event()
        """Set to stop the current or the next call; cleared by the caller before it starts one."""

    def send(self, text: str) -> None:
        """Read what a message mentions and send it to both sides; the first one starts a match."""

        def open_stream() -> Generator[SideUpdate, None, None]:
            whole, images = self._read_message(text)
            match = self.live_match or self._new_match(with_images=bool(images))
            match.check_images(images)
            self.live_match = match
            self._post_message(MessageRead(whole, tuple(each.image for each in images)))
            return match.send(whole, images)

        self._run_stream(open_stream)

    def regenerate(self) -> None:
        """Let both sides answer again."""
        if self.live_match is not None:
            self._run_stream(self.live_match.regenerate)

    def vote(self, verdict: Verdict, elo_rules: EloRules) -> None:
        """Save a verdict on the match."""
        try:
            if self.live_match is not None:
                self._post_message(Voted(verdict, self.live_match.vote(verdict, elo_rules)))
        except ChatlmError as error:
            self._post_message(Voted(verdict, error=error))

    def _new_match(self, *, with_images: bool) -> LiveMatch:
        pairing = Pairing(self._settings.pairing)
        pair = choose_contestants(self.store, pairing, self._rng, with_images=with_images)
        return LiveMatch(
            self.store,
            self._chats,
            *pair,
            same_seed=self._settings.same_seed,
            rng=self._rng,
        )

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
