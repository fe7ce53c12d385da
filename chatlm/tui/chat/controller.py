"""Runs one turn at a time in a worker and shows it; knows not how chats are switched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from textual import on, work

from chatlm.chat.session import ChatSession
from chatlm.chat.turn_runner import SessionEvents
from chatlm.errors import ChatlmError, StoreError, UsageError
from chatlm.tui.chat.live_turn import (
    LiveTurn,
    TextStreamed,
    TurnEnded,
    TurnProgressed,
    read_ahead,
    run_turn,
)
from chatlm.tui.chat.open_chat import ShownChat
from chatlm.tui.chat.status import Status
from chatlm.tui.composer.composer import Composer
from chatlm.tui.engine_loader import EngineState, Failed, Loading, Ready
from chatlm.tui.services import OpenChat, Services
from chatlm.types.events import Notice, TurnStarted
from chatlm.types.messages import Turn


class LiveChat(ShownChat):
    """A turn that was begun goes on while another chat is shown; an incognito chat ends there.

    Args:
        services: of the program.
    """

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._read_ahead_stop = threading.Event()
        """Set to end the reading ahead that goes on, if any."""

    def on_mount(self) -> None:
        """Follow the engine."""
        self.watch(self.app, "engine_state", self._follow_engine)

    def session(self, stop: threading.Event) -> ChatSession:
        """A session of the shown chat; setting `stop` ends its wait for the engine."""
        return self._services.create_session(self._chat, stop)

    def pause_read_ahead(self) -> None:
        """Leave the model to something else, until `resume`.

        Raises:
            UsageError: a turn is running.
        """
        self.require_idle()
        self._read_ahead_stop.set()

    def resume_read_ahead(self) -> None:
        """Use the model again while nothing else does."""
        self._start_read_ahead()

    async def redraw(self, turn_id: int | None = None) -> None:
        """See `ShownChat.redraw`; what was changed is read ahead."""
        await super().redraw(turn_id)
        self.resume_read_ahead()

    def stop(self) -> bool:
        """Ask the running turn to stop, and any reading ahead; False when there is no turn."""
        self._read_ahead_stop.set()
        if self._live_turn is not None:
            self._live_turn.stop.set()
        return self._live_turn is not None

    def stop_and_wait(self, seconds: float) -> None:
        """Store what is typed, stop the running turn and wait until it is stored too.

        Needs no working screen.
        """
        self.save_draft()
        self._read_ahead_stop.set()
        if self._live_turn is not None:
            self._live_turn.stop.set()
            self._live_turn.done.wait(seconds)
        self.drafts.wait(seconds)
        self.write_queue.wait(seconds)

    def send_message(self, text: str) -> bool:
        """Send a message; False, and a word why, while a reply is written."""
        return self._start_turn(lambda session: session.send(text), message=text)

    def continue_reply(self) -> None:
        """Go on with a reply that was cut short."""
        self._start_turn(ChatSession.continue_reply)

    def regenerate(self) -> None:
        """Answer the newest message once more, or try again to load a model that failed."""
        if self.newest_view is None and isinstance(self._services.engine_state, Failed):
            self._services.load_engine()
        else:
            self._start_turn(ChatSession.regenerate)

    @on(Composer.Submitted)
    def _handle_submitted(self, event: Composer.Submitted) -> None:
        event.stop()
        text, position = event.text, event.edited_position
        if position is None:
            sent = self.send_message(text)
        else:
            sent = self._start_turn(lambda session: session.edit(position, text), message=text)
        if sent:
            self.composer.confirm_submitted(event)
            self.save_draft()

    def _start_turn(
        self, open_events: Callable[[ChatSession], SessionEvents], message: str = ""
    ) -> bool:
        """Run a turn of the shown chat in the worker; False, and a word why, while one runs."""
        try:
            self.require_idle()
        except UsageError as error:
            self.toast(error)
            return False
        if isinstance(self._services.engine_state, Failed):
            self._services.load_engine()
        self._read_ahead_stop.set()
        live = self._live_turn = LiveTurn(self._chat, unsaved_message=message)
        if not message and (view := self.newest_view):
            live.view, live.turn = view, view.turn
        loading = isinstance(self._services.engine_state, Loading)
        live.show_activity("waiting for the model" if loading else "…")
        self._turn_worker(
            partial(open_events, self._services.create_session(self._chat, live.stop)), live
        )
        return True

    @work(thread=True, exclusive=True, group="turn", exit_on_error=False)
    def _turn_worker(self, open_events: Callable[[], SessionEvents], live: LiveTurn) -> None:
        self.write_queue.wait()  # what was changed before the message holds for it
        try:
            run_turn(open_events, live.stop, self.post_message)
        finally:
            live.done.set()

    def _start_read_ahead(self) -> None:
        """Use the time until the next message, if the model is there and free."""
        self._read_ahead_stop.set()
        chat, ready = self._chat, isinstance(self._services.engine_state, Ready)
        if ready and self._live_turn is None and chat.conversation_id is not None:
            self._read_ahead_stop = threading.Event()
            self._read_ahead_worker(
                self._services.create_session(chat, self._read_ahead_stop), self._read_ahead_stop
            )

    @work(thread=True, group="ahead", exit_on_error=False)
    def _read_ahead_worker(self, session: ChatSession, stop: threading.Event) -> None:
        read_ahead(session, stop)

    @on(TurnProgressed)
    async def _handle_progress(self, message: TurnProgressed) -> None:
        async with self._draw_lock:
            if self._live_turn is not None:
                await self._show_event(self._live_turn, message)

    async def _show_event(self, live: LiveTurn, message: TurnProgressed) -> None:
        match message.event:
            case TurnStarted(conversation_id=conversation_id, turn=turn):
                live.turn, live.unsaved_message = turn, ""
                if live.chat.conversation_id not in (None, conversation_id):
                    await self._switch_to_fork(live, conversation_id)
                elif live.chat is self._chat:
                    await live.attach(await self.add_turn(turn))
                live.chat.conversation_id = conversation_id
                self.notify_changed()
            case Notice(text=text):
                await self.show_notice(text)
            case step:
                await live.apply_event(step)
        self._sync_status(live)

    async def _switch_to_fork(self, live: LiveTurn, conversation_id: int) -> None:
        """An edited message is answered in a fork: show that, if the chat it came from is shown."""
        shown = live.chat is self._chat
        live.chat = OpenChat(live.chat.store, conversation_id)
        if shown:
            await self._load_chat(live.chat.store, conversation_id)

    @on(TextStreamed)
    async def _handle_text(self, message: TextStreamed) -> None:
        async with self._draw_lock:
            if self._live_turn is not None:
                await self._live_turn.append_text(message)
                self._sync_status(self._live_turn)

    @on(TurnEnded)
    async def _handle_turn_ended(self, message: TurnEnded) -> None:
        async with self._draw_lock:
            if self._live_turn is not None:
                await self._finish_turn(self._live_turn, message)

    async def _finish_turn(self, live: LiveTurn, message: TurnEnded) -> None:
        if live.unsaved_message:
            self.composer.restore_unsent(live.unsaved_message)
        if live.chat is self._chat:
            await self._show_stored_turn(live)
        if message.error is not None:
            await self._report_error(message.error, live)
        self._live_turn = None
        if live.chat.store is not self._chat.store:
            self._discard_incognito(live.chat)
        self._start_read_ahead()
        self.notify_changed()

    async def _show_stored_turn(self, live: LiveTurn) -> None:
        """Replace what was streamed by what is stored, unless it could not all be stored."""
        if live.view is None or live.turn is None:
            return
        try:
            turn = live.with_streamed_text(live.chat.store.turn(live.turn.id))
        except StoreError as error:
            await self.show_notice(error)
            turn = live.as_unsaved(live.turn)
        await live.view.show_turn(turn)
        self.status = Status.for_turn(turn, self.status.used_tokens)

    async def _switch_chat(
        self, chat: OpenChat, title: str = "", turns: tuple[Turn, ...] = ()
    ) -> None:
        await super()._switch_chat(chat, title, turns)
        self._start_read_ahead()

    async def _report_error(self, error: ChatlmError, live: LiveTurn) -> None:
        """In the transcript too, unless it stands there already or belongs to another chat."""
        state = self._services.engine_state
        if isinstance(state, Failed) and state.error is error:
            return  # the banner says it
        reply = live.view.turn.reply if live.view else None
        below = reply is not None and reply.error == str(error)
        if below or live.chat is not self._chat or isinstance(error, UsageError):
            self.toast(error)
        else:
            await self.show_notice(error)

    async def _follow_engine(self, state: EngineState) -> None:
        self.show_engine_state(state)
        if isinstance(state, Ready):
            self._start_read_ahead()
            self.composer.recount_files()
            for note in state.info.notes:
                await self.show_notice(note)
