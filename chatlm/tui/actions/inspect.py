"""Actions that open screens about the prompt and the context."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from textual.message import Message

from chatlm.chat.context_usage import ContextUsage
from chatlm.chat.live_tools import LiveTools
from chatlm.chat.replay import replay
from chatlm.chat.session import ChatSession
from chatlm.chat.tool_loop import retrieved_only
from chatlm.chat.tool_set import ToolOptions
from chatlm.errors import ChatlmError, UsageError
from chatlm.store.store import Store
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.composer.attachments import OutgoingMessage
from chatlm.tui.engine_loader import POLL_SECONDS, EngineLoader, Ready
from chatlm.tui.formatting import count
from chatlm.tui.screens.context import ContextBreakdown, ContextScreen, SummaryScreen
from chatlm.tui.screens.replay import Asked, ReplayScreen
from chatlm.tui.screens.xray import PromptXray, XrayScreen
from chatlm.tui.services import Services
from chatlm.tui.widgets.context_gauge import ContextFill
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.engine import Engine
from chatlm.types.events import ApprovalNeeded, ToolQuestion
from chatlm.types.provenance import Provenance
from chatlm.types.replies import Reply
from chatlm.types.requests import Request

log = logging.getLogger(__name__)


@dataclass
class ContextMeasured(Message):
    """Context usage of the open chat; None when it is unknown."""

    usage: ContextUsage | None
    conversation_id: int | None
    """The measured chat."""


class InspectActions:
    """Screens about the context and prompts of the open chat.

    Args:
        services: shared services.
        chat: the open chat; gets a `ContextMeasured`.
    """

    def __init__(self, services: Services, chat: ChatController) -> None:
        self._services = services
        self._chat = chat
        self._stop_waiting = threading.Event()
        """Set to end all waiting for the model."""

    def close(self) -> None:
        """End all waiting for the model."""
        self._stop_waiting.set()

    def measure_context(self) -> None:
        """Measure the context usage in a thread if the model is loaded; posts `ContextMeasured`."""
        if isinstance(self._services.engine_state, Ready):
            session, chat = self._create_session(), self._chat.conversation
            job = partial(self._measure_worker, session, chat)
            self._chat.view.run_worker(job, thread=True, exclusive=True, group="measure")

    def show_context(self) -> None:
        """Open the context screen."""
        self._chat.turns.pause_read_ahead()
        session = self._create_session()

        def ledger() -> ContextBreakdown:
            chat = session.conversation or self._chat.conversation
            measure = session.context_usage(chat)
            return ContextBreakdown(
                chat.system_prompt,
                chat.turns,
                measure.turn_tokens,
                measure.omitted_turns,
                context_fill(measure),
            )

        def leave(turn_id: int | None) -> None:
            self._redraw(turn_id)

        self._chat.view.app.push_screen(
            ContextScreen(ledger, session.store.set_context_policy, session.summarise), leave
        )

    def xray_reply(self, turn: Turn, reply: Reply) -> None:
        """Open the x-ray of a reply's prompt."""
        store = self._chat.store
        self._chat.read_then(
            partial(store.provenance, reply.id),
            partial(self._show_xray, store, turn),
            "reading a provenance",
        )

    def _show_xray(self, store: Store, turn: Turn, made: Provenance | None) -> None:
        if made is None:
            raise UsageError(
                "The prompt of this reply was not stored",
                hint="Replies of older versions and imported ones have none; new replies do.",
            )
        request = Request(
            made.messages,
            made.sampling,
            made.adapter,
            tools=made.tools,
            tool_choice=made.tool_choice,
            parallel_tool_calls=made.parallel_tool_calls,
            images=store.images,
        )

        def read() -> PromptXray:
            prompt, passages = (
                self._wait_for_engine().preview(request),
                tuple(store.passages(turn.id)),
            )
            return PromptXray(prompt, request, turn.display_text, passages, made.prompt_hash)

        title = "Prompt of this reply" if made.model else "Prompt a model would have read"
        self._chat.view.app.push_screen(XrayScreen(read, title))

    def preview_prompt(self, message: OutgoingMessage) -> None:
        """Open the x-ray of the prompt for a message, or for the newest one if it is blank."""
        session = self._create_session()
        turns = self._chat.conversation.turns
        again = bool(turns) and not message.text.strip()
        title = "Prompt of your newest message" if again else "Prompt if this were sent now"

        def read() -> PromptXray:
            whole = message.read()
            seen = session.preview(whole.text, images=whole.images)
            words = turns[-1].display_text if again else whole.text
            return PromptXray(seen.prompt, seen.request, words, seen.passages)

        self._chat.view.app.push_screen(XrayScreen(read, title))

    def summarise_turn(self, turn: Turn) -> None:
        """Let the model summarise a turn, and use the summary in its place."""
        self._chat.turns.pause_read_ahead()
        session = self._create_session()

        def leave(_: None) -> None:
            self._redraw()

        self._chat.view.app.push_screen(SummaryScreen(lambda: session.summarise(turn.id)), leave)

    def replay_reply(self, turn: Turn, reply: Reply, model: str, *, live: bool) -> None:
        """Replay a reply and compare.

        Args:
            turn: of the reply.
            reply: what is replayed.
            model: another model; empty for the loaded one.
            live: whether its tools run again.
        """
        self._chat.turns.pause_read_ahead()
        store, plugins = self._chat.store, self._services.plugins
        chat, options = self._chat.conversation, ToolOptions(self._services.config.tools)

        def run(engine: Engine) -> Generator[object, None, None]:
            passages = retrieved_only(store.passages(turn.id))
            tools = LiveTools(plugins, options, chat, turn, passages) if live else None
            events = replay(store, engine, reply.id, plugins=plugins, live=tools)
            with closing(events):
                for event in events:
                    if isinstance(event, ApprovalNeeded | ToolQuestion):
                        asked = Asked(event)
                        yield asked
                        while not asked.answered.wait(POLL_SECONDS):
                            yield None  # the user may give up here
                    else:
                        yield event

        def again() -> Generator[object, None, None]:
            if not model:
                yield from run(self._wait_for_engine())
                return
            with closing(EngineLoader(self._services.open_engine, lambda _: None)) as loader:
                loader.start(model)
                while loader.still_loading(POLL_SECONDS):
                    yield None  # the user may give up here
                engine = loader.wait(self._stop_waiting)
                yield from run(engine)

        self._chat.view.app.push_screen(
            ReplayScreen(reply.text, again), lambda _: self._chat.turns.resume_read_ahead()
        )

    def _redraw(self, turn_id: int | None = None) -> None:
        self._chat.view.run_worker(self._chat.redraw(turn_id), exit_on_error=False)

    def _measure_worker(self, session: ChatSession, chat: Conversation) -> None:
        measure = None
        try:
            measure = session.context_usage(chat)
        except ChatlmError as error:  # the next message will say it, if it still holds
            log.info("chat not measured: %s", error)
        except Exception:  # a bug must not take the chat away
            log.exception("chat not measured")
        self._chat.view.post_message(ContextMeasured(measure, session.conversation_id))

    def _create_session(self) -> ChatSession:
        return self._chat.session(self._stop_waiting)

    def _wait_for_engine(self) -> Engine:
        return self._services.engine.wait(self._stop_waiting)


def context_fill(usage: ContextUsage) -> ContextFill:
    """Convert measured usage to the values of the gauge."""
    return ContextFill(
        system_tokens=usage.system_tokens,
        history_tokens=usage.used_tokens - usage.system_tokens,
        reply_reserve=usage.reply_reserve,
        context_length=usage.context_length,
        omitted_count=len(usage.omitted_turns),
        tool_count=usage.tool_count,
        tool_tokens=usage.tool_tokens,
    )


def describe_tools(usage: ContextUsage | None) -> str:
    """Return how many tools the model has and what they cost of each prompt; empty for none."""
    if usage is None or not usage.tool_count:
        return ""
    return f"{count(usage.tool_count, 'tool')}, {count(usage.tool_tokens, 'token')}"
