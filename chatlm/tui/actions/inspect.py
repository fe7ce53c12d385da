"""Opens the screens that look into what the model reads; what takes time runs in threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from textual.message import Message

from chatlm.chat.context_usage import ContextUsage
from chatlm.chat.replay import replay
from chatlm.chat.session import ChatSession
from chatlm.errors import ChatlmError, UsageError
from chatlm.tui.engine_loader import POLL_SECONDS, EngineLoader, Ready
from chatlm.tui.screens.context import ContextBreakdown, ContextScreen, SummaryScreen
from chatlm.tui.screens.replay import ReplayScreen
from chatlm.tui.screens.xray import PromptXray, XrayScreen
from chatlm.tui.widgets.context_gauge import ContextFill
from chatlm.types.engine import Engine
from chatlm.types.messages import Reply, Turn
from chatlm.types.requests import Request

if TYPE_CHECKING:
    from chatlm.tui.chat_screen import ChatScreen


log = logging.getLogger(__name__)


@dataclass
class ContextMeasured(Message):
    """What the shown chat takes of the context; None when it cannot be said."""

    measure: ContextUsage | None
    conversation_id: int | None
    """Which chat that is."""


class InspectActions:
    """Each of these is a screen over the chat, given what it needs and no more.

    Args:
        screen: whose chat is looked at.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        self._chat = screen.chat
        self._closing = threading.Event()
        """Ends all waiting for the model."""

    def close(self) -> None:
        """Let no thread wait for the model any longer."""
        self._closing.set()

    def measure(self) -> None:
        """Measure the chat, if the model is there; the screen gets a `Measured`."""
        if isinstance(self._screen.owner.engine_state, Ready):
            job = partial(self._measure, self._session())
            self._screen.run_worker(job, thread=True, exclusive=True, group="measure")

    def context(self) -> None:
        """Every turn's cost, and how it takes part."""
        self._chat.pause()
        session = self._session()

        def ledger() -> ContextBreakdown:
            chat, measure = self._chat.conversation, session.measure()
            return ContextBreakdown(
                chat.system, chat.turns, measure.costs, measure.outside, context_fill(measure)
            )

        async def leave(turn_id: int | None) -> None:
            await self._chat.redraw(turn_id)

        self._screen.app.push_screen(
            ContextScreen(ledger, session.store.set_standing, session.summarise), leave
        )

    def prompt_of(self, turn: Turn, reply: Reply) -> None:
        """The exact prompt that made a reply."""
        store = self._chat.store
        made = store.provenance(reply.id)
        if made is None:
            raise UsageError(
                "What this reply was made from was not kept",
                hint="It came from an older version or from elsewhere. Of a new one it is kept.",
            )
        request = Request(made.messages, made.sampling, made.adapter)

        def read() -> PromptXray:
            prompt, passages = self._engine().preview(request), tuple(store.passages(turn.id))
            return PromptXray(prompt, request, turn.words, passages, made.prompt_hash)

        title = "What was read for this reply" if made.model else "What a model would have read"
        self._screen.app.push_screen(XrayScreen(read, title))

    def prompt_to_be(self, text: str) -> None:
        """The exact prompt, if `text` were sent now; blank takes the newest message."""
        session = self._session()
        turns = self._chat.conversation.turns
        again = bool(turns) and not text.strip()
        words = turns[-1].words if again else text
        title = (
            "What is read for your newest message"
            if again
            else "What would be read if this were sent now"
        )

        def read() -> PromptXray:
            seen = session.preview(text)
            return PromptXray(seen.prompt, seen.request, words, seen.passages)

        self._screen.app.push_screen(XrayScreen(read, title))

    def summary(self, turn: Turn) -> None:
        """Have the model write a turn's summary, which stands for it then."""
        self._chat.pause()
        session = self._session()

        async def leave(_: None) -> None:
            await self._chat.redraw()

        self._screen.app.push_screen(SummaryScreen(lambda: session.summarise(turn.id)), leave)

    def replay(self, reply: Reply, model: str) -> None:
        """Make a reply again, with another model if one is named, and compare."""
        self._chat.pause()
        store = self._chat.store

        def again() -> Generator[object, None, None]:
            if not model:
                yield from replay(store, self._engine(), reply.id)
                return
            with closing(EngineLoader(self._screen.owner.open_engine, lambda _: None)) as loader:
                loader.start(model)
                while loader.loads(POLL_SECONDS):
                    yield None  # the person may give up here
                yield from replay(store, loader.wait(self._closing), reply.id)

        self._screen.app.push_screen(ReplayScreen(reply.text, again), lambda _: self._chat.resume())

    def _measure(self, session: ChatSession) -> None:
        measure = None
        try:
            measure = session.measure()
        except ChatlmError as error:  # the next message will say it, if it still holds
            log.info("chat not measured: %s", error)
        except Exception:  # a bug must not take the chat away
            log.exception("chat not measured")
        self._screen.post_message(ContextMeasured(measure, session.conversation_id))

    def _session(self) -> ChatSession:
        return self._chat.session(self._closing)

    def _engine(self) -> Engine:
        return self._screen.owner.engine.wait(self._closing)


def context_fill(measure: ContextUsage) -> ContextFill:
    """What the ruler draws."""
    return ContextFill(
        system=measure.system,
        turns=measure.used - measure.system,
        reserve=measure.reserve,
        limit=measure.limit,
        outside=len(measure.outside),
    )
