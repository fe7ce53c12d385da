"""Run turns: send messages, show what comes back, and store how they ended."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from chatlm.chat.session import ChatSession
from chatlm.chat.turn_runner import SessionEvents
from chatlm.errors import ChatlmError, UsageError
from chatlm.store import export
from chatlm.tui.chat.chat_loader import ChatLoader
from chatlm.tui.chat.chat_state import ChatState
from chatlm.tui.chat.chat_view import ChatView
from chatlm.tui.chat.edits import ChatEdits
from chatlm.tui.chat.live_turn import (
    LiveTurn,
    ReadAhead,
    TextStreamed,
    TurnEnded,
    TurnMessage,
    TurnProgressed,
    run_turn,
)
from chatlm.tui.chat.status import Status
from chatlm.tui.engine_loader import Failed, Loading, Ready
from chatlm.tui.screens.approval import ApprovalScreen, QuestionScreen
from chatlm.tui.services import OpenChat
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.events import (
    Approval,
    ApprovalNeeded,
    MessageRewritten,
    Notice,
    PassagesFound,
    ToolQuestion,
    TurnStarted,
    TurnWithdrawn,
)
from chatlm.types.parts import Image, PreparedImage

REFUSED = "refused"
"""Topic of the notice that a message was not sent, which the next message ends."""


class TurnControl:
    """Starts turns in the open chat, draws them, and reads ahead between them.

    A running turn continues while another chat is open; that of an incognito chat ends with it.

    Args:
        state: the open chat and the running turn.
        edits: stores what was changed while a first message was being stored.
        loader: keeps the history of sent messages.
        show_chat: shows another chat with its draft.
    """

    def __init__(
        self,
        state: ChatState,
        edits: ChatEdits,
        loader: ChatLoader,
        show_chat: Callable[[OpenChat, str], Awaitable[None]],
    ) -> None:
        self._state = state
        self._view = state.view
        self._edits = edits
        self._loader = loader
        self._show_chat = show_chat
        self._read_ahead = ReadAhead(state.view)

    def send_message(self, text: str, images: Sequence[PreparedImage] = ()) -> bool:
        """Send a message; return False, with a toast, while a turn is running."""
        return self.start(lambda session: session.send(text, images), message=text)

    def continue_reply(self) -> None:
        """Continue a reply that was cut short."""
        self.start(ChatSession.continue_reply)

    def regenerate(self) -> None:
        """Regenerate the newest reply, or reload a model that failed."""
        if self._view.newest_view is None and isinstance(self._state.services.engine_state, Failed):
            self._state.services.load_engine()
        else:
            self.start(ChatSession.regenerate)

    def start(self, open_events: Callable[[ChatSession], SessionEvents], message: str = "") -> bool:
        """Start a turn in the worker; return False, with a toast, while one is running."""
        try:
            self._state.require_idle()
        except UsageError as error:
            self._view.toast(error)
            return False
        if isinstance(self._state.services.engine_state, Failed):
            self._state.services.load_engine()
        self._read_ahead.stop()
        start = dataclasses.replace(self._state.chat)
        live = self._state.live_turn = LiveTurn(self._state.chat, start, unsaved_message=message)
        if not message and (view := self._view.newest_view):
            live.view, live.turn = view, view.turn
        loading = isinstance(self._state.services.engine_state, Loading)
        live.show_activity("waiting for the model" if loading else "…")
        session = self._state.services.create_session(self._state.chat, live.stop)
        self._view.run_worker(
            partial(self._run_turn, partial(open_events, session), live),
            thread=True,
            exclusive=True,
            group="turn",
            exit_on_error=False,
        )
        self._view.post_message(ChatView.Started())
        return True

    def _run_turn(self, open_events: Callable[[], SessionEvents], live: LiveTurn) -> None:
        """Run a turn in the worker thread."""
        self._state.write_queue.wait()  # the turn must see all earlier changes
        try:
            turn_id = live.turn.id if live.turn else None
            run_turn(open_events, live.stop, self._post, live.chat.store.turn, turn_id)
        finally:
            live.done.set()

    def _post(self, message: TurnMessage) -> None:
        """Have a worker's message handled in the UI thread."""
        self._view.call_later(self._handle, message)

    async def _handle(self, message: TurnMessage) -> None:
        async with self._state.draw_lock:
            live = self._state.live_turn
            if live is None:
                return
            match message:
                case TurnProgressed():
                    await self._show_event(live, message)
                case TextStreamed():
                    await live.append_text(message)
                    self._state.show_live_status()
                case TurnEnded():
                    await self._finish_turn(live, message)

    async def _show_compacted(self, chat: OpenChat, turn: Turn) -> None:
        """Show that a summary took the place of a turn, if its chat is still open."""
        async with self._state.draw_lock:
            chat.update_turn(turn)
            if chat is not self._state.chat:
                return
            await self._view.transcript.update_turn(turn)
        self._state.notify_changed()

    async def _show_event(self, live: LiveTurn, message: TurnProgressed) -> None:
        match message.event:
            case TurnStarted(conversation=conversation, turn=turn):
                await self._view.transcript.remove_notices(REFUSED)
                await self._show_started(live, conversation, turn)
            case MessageRewritten(turn=turn):
                live.chat.update_turn(turn)
                await live.apply_event(message.event)
            case PassagesFound():
                await live.apply_event(message.event)
                if live.turn is not None:
                    live.chat.update_turn(live.turn)
            case TurnWithdrawn():
                await self._withdraw_turn(live, message.event)
            case Notice(text=text, topic=topic):
                await self._view.show_notice(text, topic)
            case ApprovalNeeded() | ToolQuestion():
                await live.apply_event(message.event)
                self._ask_user(live, message.event, message.answered)
            case step:
                await live.apply_event(step)
        self._state.show_live_status()

    def _ask_user(
        self, live: LiveTurn, event: ApprovalNeeded | ToolQuestion, answered: threading.Event | None
    ) -> None:
        """Show the card of a call that waits for the user."""
        app = self._view.app

        def close(answer: Approval | str | None) -> None:
            """Pass the answer to the turn; none stops it."""
            if answer is None:
                live.stop.set()
            elif isinstance(event, ApprovalNeeded) and isinstance(answer, Approval):
                event.answer = answer
                if answer.for_chat:
                    tools = live.chat.conversation.tools.with_permission(event.call.name, "allow")
                    live.chat.change("tools", tools)
            elif isinstance(event, ToolQuestion) and isinstance(answer, str):
                event.answer = answer
            if answered is not None:
                answered.set()

        if isinstance(event, ToolQuestion):
            app.push_screen(QuestionScreen(event), close)
            return
        other = (
            "" if live.chat is self._state.chat else export.display_title(live.chat.conversation)
        )
        app.push_screen(ApprovalScreen(event, other), close)

    async def _show_started(self, live: LiveTurn, conversation: Conversation, turn: Turn) -> None:
        """Show a message that was just stored, in the fork if it is an edited one."""
        live.turn, live.unsaved_message = turn, ""
        self._loader.add_sent(live.chat.store, turn.display_text)
        if live.chat.conversation_id not in (None, conversation.id):
            live.draft_at_start = self._view.composer.dump_draft()
            chat = OpenChat(live.chat.store, conversation.id, loaded=conversation)
            await self._switch_live_chat(live, chat, "")
            return
        if live.chat is self._state.chat:
            await live.attach(await self._view.add_turn(turn))
        is_new = live.chat.conversation_id is None
        if is_new:
            live.chat.conversation_id, live.chat.loaded = conversation.id, conversation
            self._edits.store_changes(live.chat, live.chat_at_start)
            if live.chat is not self._state.chat:
                self._state.drafts.save_new_chat(live.chat.store)
        live.chat.update_turn(turn)
        self._state.save_draft()
        self._state.notify_changed()

    async def _withdraw_turn(self, live: LiveTurn, event: TurnWithdrawn) -> None:
        """Remove a turn whose message a plugin refused, and go back to the chat before it."""
        live.unsaved_message = event.turn.display_text
        live.turn = live.view = None
        if event.conversation_id not in (None, live.chat.conversation_id):
            await self._switch_live_chat(live, live.chat_at_start, live.draft_at_start)
            return
        if event.conversation_id is None:
            live.chat.unload()
        elif live.chat.loaded is not None:
            turns = live.chat.loaded.turns[:-1]
            live.chat.loaded = dataclasses.replace(live.chat.loaded, turns=turns)
        if live.chat is self._state.chat:
            await self._view.remove_newest()
        self._state.notify_changed()

    async def _switch_live_chat(self, live: LiveTurn, chat: OpenChat, draft: str) -> None:
        """Follow an edited message to its fork, or back; show that chat if the other is open."""
        is_open, live.chat = live.chat is self._state.chat, chat
        if is_open:
            await self._show_chat(chat, draft)
        else:
            self._state.notify_changed()

    async def _finish_turn(self, live: LiveTurn, message: TurnEnded) -> None:
        self._view.composer.show_unsent("")
        if isinstance(card := self._view.app.screen, ApprovalScreen | QuestionScreen):
            card.dismiss(None)  # the turn ended in another way
        refused = bool(live.unsaved_message) and isinstance(message.error, UsageError)
        if live.unsaved_message:
            reason = "typing replaces it" if refused else ""
            self._view.composer.restore_unsent(live.unsaved_message, reason)
            live.unsaved_message = ""
            self._state.save_draft()
        self._loader.ended_turns += 1
        await self._show_stored_turn(live, message)
        if refused and live.chat is self._state.chat:
            await self._view.show_notice(str(message.error), REFUSED)
        elif message.error is not None:
            await self._report_error(message.error, live)
        self._state.live_turn = None
        if live.chat.store is not self._state.chat.store:
            self._state.discard_incognito(live.chat)
        self.resume_read_ahead()
        self._state.notify_changed()

    async def _show_stored_turn(self, live: LiveTurn, ended: TurnEnded) -> None:
        """Replace the streamed turn by the stored one, if it was stored."""
        if live.turn is None:
            return
        if ended.turn is not None:
            turn = live.with_streamed_text(ended.turn)
            sent = [part for part in turn.user.parts if isinstance(part, Image)]
            self._state.services.pasted_images.discard(sent)
        else:
            turn = live.as_unsaved(live.turn)
            if ended.unread is not None and live.chat is self._state.chat:
                await self._view.show_notice(ended.unread)
        live.chat.update_turn(turn)
        if live.view is not None:
            await live.view.show_turn(turn)
            self._view.status = Status.for_turn(turn, self._view.status.used_tokens)

    async def _report_error(self, error: ChatlmError, live: LiveTurn) -> None:
        """Show an error in the transcript, or only in a toast if that suffices."""
        state = self._state.services.engine_state
        if isinstance(state, Failed) and state.error is error:
            return  # the banner says it
        reply = live.view.turn.reply if live.view else None
        below = reply is not None and reply.error == str(error)
        if below or live.chat is not self._state.chat or isinstance(error, UsageError):
            self._view.toast(error)
        else:
            await self._view.show_notice(error)

    def pause_read_ahead(self) -> None:
        """Stop reading ahead, so that something else can use the model.

        Raises:
            UsageError: a turn is running.
        """
        self._state.require_idle()
        self._read_ahead.stop()

    def resume_read_ahead(self) -> None:
        """Read ahead if the model is loaded and idle."""
        chat, ready = self._state.chat, isinstance(self._state.services.engine_state, Ready)
        if ready and self._state.live_turn is None and chat.conversation_id is not None:
            show = partial(self._view.call_later, self._show_compacted, chat)
            self._read_ahead.start(
                partial(self._state.services.create_session, chat),
                chat.conversation,
                show if self._state.services.config.auto_compact else None,
            )
        else:
            self._read_ahead.stop()

    def stop(self) -> bool:
        """Stop the running turn and the read-ahead; return whether a turn was running."""
        self._read_ahead.stop()
        if self._state.live_turn is not None:
            self._state.live_turn.stop.set()
        return self._state.live_turn is not None

    def stop_and_wait(self, seconds: float) -> None:
        """Save the draft, stop the running turn and wait until it is stored.

        Works without a terminal.
        """
        self._state.save_draft()
        self._read_ahead.stop()
        if self._state.live_turn is not None:
            self._state.live_turn.stop.set()
            self._state.live_turn.done.wait(seconds)
            self._state.drafts.save(
                self._state.chat
            )  # the message is stored now, or it never will be
        self._state.drafts.wait(seconds)
        self._state.write_queue.wait(seconds)
