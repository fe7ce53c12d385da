"""Runs one turn at a time in a worker and shows it; knows not how chats are switched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from textual import on, work

from chatlm.chat.session import ChatSession
from chatlm.chat.turn_runner import SessionEvents
from chatlm.errors import ChatlmError, StoreError, UsageError
from chatlm.store.store import Store
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
from chatlm.tui.services import OpenChat
from chatlm.types.events import Notice, TurnStarted
from chatlm.types.messages import Turn

if TYPE_CHECKING:
    from chatlm.tui.app import ChatApp


class LiveChat(ShownChat):
    """A turn that was begun goes on while another chat is shown; an incognito chat ends there.

    Args:
        app: gives the sessions and the engine's state.
        store: the saved chats; an incognito chat has a store of its own.
    """

    def __init__(self, app: ChatApp, store: Store) -> None:
        super().__init__(app, store)
        self._ahead = threading.Event()
        """Set to end the reading ahead that goes on, if any."""

    def on_mount(self) -> None:
        """Follow the engine."""
        self.watch(self._owner, "engine_state", self._engine_changed)

    def session(self, stop: threading.Event) -> ChatSession:
        """A session of the shown chat; setting `stop` ends its wait for the engine."""
        return self._owner.session(self._chat, stop)

    def pause(self) -> None:
        """Leave the model to something else, until `resume`.

        Raises:
            UsageError: a turn is running.
        """
        self.refuse_while_busy()
        self._ahead.set()

    def resume(self) -> None:
        """Use the model again while nothing else does."""
        self._read_ahead()

    async def redraw(self, turn_id: int | None = None) -> None:
        """See `ShownChat.redraw`; what was changed is read ahead."""
        await super().redraw(turn_id)
        self.resume()

    def stop(self) -> bool:
        """Ask the running turn to stop, and any reading ahead; False when there is no turn."""
        self._ahead.set()
        if self._live is not None:
            self._live.stop.set()
        return self._live is not None

    def stop_and_wait(self, seconds: float) -> None:
        """Store what is typed, stop the running turn and wait until it is stored too.

        Needs no working screen.
        """
        self.keep_draft()
        self._ahead.set()
        if self._live is not None:
            self._live.stop.set()
            self._live.done.wait(seconds)
        self.drafts.wait(seconds)
        self.writes.wait(seconds)

    def send(self, text: str) -> bool:
        """Send a message; False, and a word why, while a reply is written."""
        return self._start(lambda session: session.send(text), sent=text)

    def continue_reply(self) -> None:
        """Go on with a reply that was cut short."""
        self._start(ChatSession.continue_reply)

    def regenerate(self) -> None:
        """Answer the newest message once more, or try again to load a model that failed."""
        if self.newest is None and isinstance(self._owner.engine_state, Failed):
            self._owner.load_engine()
        else:
            self._start(ChatSession.regenerate)

    @on(Composer.Sent)
    def _send(self, event: Composer.Sent) -> None:
        event.stop()
        text, position = event.text, event.edit
        if position is None:
            sent = self.send(text)
        else:
            sent = self._start(lambda session: session.edit(position, text), sent=text)
        if sent:
            self.composer.sent(event)
            self.keep_draft()

    def _start(self, begin: Callable[[ChatSession], SessionEvents], sent: str = "") -> bool:
        """Run a turn of the shown chat in the worker; False, and a word why, while one runs."""
        try:
            self.refuse_while_busy()
        except UsageError as error:
            self.toast(error)
            return False
        if isinstance(self._owner.engine_state, Failed):
            self._owner.load_engine()
        self._ahead.set()
        live = self._live = LiveTurn(self._chat, sent=sent)
        if not sent and (view := self.newest):
            live.view, live.turn = view, view.turn
        loading = isinstance(self._owner.engine_state, Loading)
        live.say("waiting for the model" if loading else "…")
        self._work(partial(begin, self._owner.session(self._chat, live.stop)), live)
        return True

    @work(thread=True, exclusive=True, group="turn", exit_on_error=False)
    def _work(self, begin: Callable[[], SessionEvents], live: LiveTurn) -> None:
        self.writes.wait()  # what was changed before the message holds for it
        try:
            run_turn(begin, live.stop, self.post_message)
        finally:
            live.done.set()

    def _read_ahead(self) -> None:
        """Use the time until the next message, if the model is there and free."""
        self._ahead.set()
        chat, ready = self._chat, isinstance(self._owner.engine_state, Ready)
        if ready and self._live is None and chat.conversation_id is not None:
            self._ahead = threading.Event()
            self._read(self._owner.session(chat, self._ahead), self._ahead)

    @work(thread=True, group="ahead", exit_on_error=False)
    def _read(self, session: ChatSession, stop: threading.Event) -> None:
        read_ahead(session, stop)

    @on(TurnProgressed)
    async def _progress(self, message: TurnProgressed) -> None:
        async with self._drawing:
            if self._live is not None:
                await self._draw(self._live, message)

    async def _draw(self, live: LiveTurn, message: TurnProgressed) -> None:
        match message.event:
            case TurnStarted(conversation_id=conversation_id, turn=turn):
                live.turn, live.sent = turn, ""
                if live.chat.conversation_id not in (None, conversation_id):
                    await self._follow_fork(live, conversation_id)
                elif live.chat is self._chat:
                    await live.attach(await self.add(turn))
                live.chat.conversation_id = conversation_id
                self.changed()
            case Notice(text=text):
                await self.tell(text)
            case step:
                await live.progress(step)
        self._follow(live)

    async def _follow_fork(self, live: LiveTurn, conversation_id: int) -> None:
        """An edited message is answered in a fork: show that, if the chat it came from is shown."""
        shown = live.chat is self._chat
        live.chat = OpenChat(live.chat.store, conversation_id)
        if shown:
            await self._open(live.chat.store, conversation_id)

    @on(TextStreamed)
    async def _grow(self, message: TextStreamed) -> None:
        async with self._drawing:
            if self._live is not None:
                await self._live.grow(message)
                self._follow(self._live)

    @on(TurnEnded)
    async def _end(self, message: TurnEnded) -> None:
        async with self._drawing:
            if self._live is not None:
                await self._end_turn(self._live, message)

    async def _end_turn(self, live: LiveTurn, message: TurnEnded) -> None:
        if live.sent:
            self.composer.put_back(live.sent)
        if live.chat is self._chat:
            await self._show_stored(live)
        if message.error is not None:
            await self._tell_error(message.error, live)
        self._live = None
        if live.chat.store is not self._chat.store:
            self._let_go(live.chat)
        self._read_ahead()
        self.changed()

    async def _show_stored(self, live: LiveTurn) -> None:
        """Replace what was streamed by what is stored, unless it could not all be stored."""
        if live.view is None or live.turn is None:
            return
        try:
            turn = live.with_seen(live.chat.store.turn(live.turn.id))
        except StoreError as error:
            await self.tell(error)
            turn = live.unstored(live.turn)
        await live.view.finish(turn)
        self.status = Status.after(turn, self.status.used)

    async def _switch(self, chat: OpenChat, title: str = "", turns: tuple[Turn, ...] = ()) -> None:
        await super()._switch(chat, title, turns)
        self._read_ahead()

    async def _tell_error(self, error: ChatlmError, live: LiveTurn) -> None:
        """In the transcript too, unless it stands there already or belongs to another chat."""
        state = self._owner.engine_state
        if isinstance(state, Failed) and state.error is error:
            return  # the banner says it
        reply = live.view.turn.reply if live.view else None
        below = reply is not None and reply.error == str(error)
        if below or live.chat is not self._chat or isinstance(error, UsageError):
            self.toast(error)
        else:
            await self.tell(error)

    async def _engine_changed(self, state: EngineState) -> None:
        self.show_engine(state)
        if isinstance(state, Ready):
            self._read_ahead()
            self.composer.recount()
            for note in state.info.notes:
                await self.tell(note)
