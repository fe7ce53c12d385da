"""Open, answer and switch chats: the logic behind the chat pane."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from textual.content import Content

from chatlm.chat.attachments import AttachmentReader
from chatlm.chat.deletion import drop_incognito, open_memory_store
from chatlm.chat.images import PreparedImage
from chatlm.chat.session import ChatSession
from chatlm.chat.suggestions import suggest_text
from chatlm.chat.turn_runner import SessionEvents
from chatlm.chat.web_images import named_hosts
from chatlm.errors import ChatlmError, StoreError, UsageError
from chatlm.store import export
from chatlm.store.store import Store
from chatlm.tui import commands
from chatlm.tui.chat.chat_drafts import ChatDrafts
from chatlm.tui.chat.chat_loader import ChatLoader
from chatlm.tui.chat.chat_view import NEW_CHAT, ChatView
from chatlm.tui.chat.edits import ChatEdits
from chatlm.tui.chat.incognito import copy_incognito_chats
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
from chatlm.tui.composer.composer import Composer
from chatlm.tui.engine_loader import EngineState, Failed, Loading, Ready
from chatlm.tui.screens.approval import ApprovalScreen, QuestionScreen
from chatlm.tui.screens.dialogs import LeaveIncognitoScreen
from chatlm.tui.services import OpenChat, Services, argument_completers
from chatlm.tui.vision import Vision
from chatlm.tui.widgets.hints import command_hint
from chatlm.tui.workers import ReadQueue, to_user_error
from chatlm.types.events import (
    Approval,
    ApprovalNeeded,
    MessageRewritten,
    Notice,
    ToolQuestion,
    TurnStarted,
    TurnWithdrawn,
)
from chatlm.types.messages import Conversation, Turn
from chatlm.types.sampling import Thinking
from chatlm.types.setups import Setup

T = TypeVar("T")


SAVE_SECONDS = 5.0
"""How long saving an incognito chat waits for its running reply to end."""


class ChatController:
    """The open chat, saved or incognito, and the turn that is running in it or another chat.

    A running turn continues while another chat is open; that of an incognito chat ends with it.

    Args:
        services: shared services.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self.saved_store = services.store
        self.composer = Composer(
            history=lambda: self._loader.sent_messages(self.store),
            count_tokens=services.engine.count_tokens,
            completers=argument_completers(lambda: self.view.app.available_themes),
            read_file=AttachmentReader(services.plugins),
            vision=Vision(lambda: services.engine.engine),
            web_hosts=named_hosts(services.config),
            resources=services.resources,
            suggest=self._suggest_text,
            vim=services.config.vim,
        )
        self.view = ChatView(
            services.clock,
            self.composer,
            on_submitted=self._submit,
            on_draft_changed=self.save_draft,
        )
        self._chat = OpenChat(services.store)
        self._live_turn: LiveTurn | None = None
        """The turn that is running, in this chat or another."""
        self._draw_lock = asyncio.Lock()
        """Held while a turn is drawn or the chat is switched, which different pumps start."""
        self.edits = ChatEdits(
            self.view,
            lambda: self._chat,
            self._draw_lock,
            require_idle=self.require_idle,
            redraw=self.redraw,
            notify_changed=self.notify_changed,
        )
        self.drafts = ChatDrafts(self.view)
        self.reads = ReadQueue(self.edits.write_queue)
        self._loader = ChatLoader(self.reads, self.drafts)
        self._opening: object | None = None
        """Identifies the chat that is being loaded, the last one that was asked for."""
        self._submitted_early: Composer.Submitted | None = None
        """A message for the chat that is being loaded."""
        self._read_ahead = ReadAhead(self.view)
        self._told_notes: set[tuple[str, str]] = set()
        """Notes about models that were shown; each is shown once, and again in the settings."""
        self.project_setups: dict[str, Setup] = {}
        """What the user saved for the new chats of each project that was open, by its folder."""
        self.switch_count = 0
        """How often another chat was opened."""

    def session(self, stop: threading.Event) -> ChatSession:
        """Return a session of the open chat; setting `stop` ends its wait for the engine."""
        return self._services.create_session(self._chat, stop)

    def save_draft(self) -> None:
        """Save the draft of the open chat, if it has changed.

        While a message is being stored, its draft stays as it is, so that one of both is on disk.
        """
        live = self._live_turn
        if live is None or live.chat is not self._chat or not live.unsaved_message:
            self.drafts.save(self._chat)

    @property
    def store(self) -> Store:
        """The store of the open chat."""
        return self._chat.store

    @property
    def conversation_id(self) -> int | None:
        """The open chat's id in its store; None before its first message."""
        return self._chat.conversation_id

    @property
    def incognito(self) -> bool:
        """Whether the open chat is in memory only."""
        return self._chat.store is not self.saved_store

    @property
    def conversation(self) -> Conversation:
        """The open chat as it was loaded or changed last; never waits for the store."""
        return self._chat.conversation

    @property
    def thinking(self) -> Thinking:
        """How much the model shall think in the open chat."""
        sampling = self.conversation.sampling.with_fallback(self._services.config.sampling)
        return sampling.thinking or "auto"

    @property
    def sent_messages(self) -> list[str]:
        """The messages that were sent in the open chat's store, newest first."""
        return self._loader.sent_messages(self.store)

    @property
    def busy(self) -> bool:
        """Whether a turn is running."""
        return self._live_turn is not None

    @property
    def hints(self) -> list[Content]:
        """Keys that act now, the most important first."""
        names = {"send": "send"}
        newest = self.view.newest_view
        if self.busy:
            names = {"stop": "stop"}
        elif isinstance(self._services.engine_state, Failed):
            names = {"regenerate": "try again"}
        elif newest is not None:
            reply = newest.turn.reply
            if reply is not None and reply.can_continue:
                names["continue"] = "continue"
            names["regenerate"] = "regenerate" if reply is not None else "answer"
        if newest is not None:
            names["next-region"] = "versions" if len(newest.turn.replies) > 1 else "select a turn"
        names |= {"palette": "commands", "help": "help"}
        if not self.busy:
            names |= {"chats": "chats", "new": "new chat", "quit": "quit"}
        return [command_hint(name, label) for name, label in names.items()]

    def require_idle(self) -> None:
        """Check that no turn is running.

        Raises:
            UsageError: a turn is running.
        """
        if self._live_turn is not None:
            where = "" if self._live_turn.chat is self._chat else " in another chat"
            stop = commands.key_of("stop")
            raise UsageError(f"A reply is being written{where}", hint=f"{stop} stops it.")

    @property
    def saved_conversation_id(self) -> int | None:
        """Id of the open chat if it is saved."""
        return self._saved_id(self._chat)

    @property
    def answering_conversation_id(self) -> int | None:
        """Id of the saved chat in which a turn is running."""
        return self._saved_id(self._live_turn.chat) if self._live_turn else None

    @property
    def has_pending_writes(self) -> bool:
        """Whether a draft or an edit is not yet on disk."""
        return self.drafts.saving or self.edits.write_queue.pending

    async def start(self, conversation_id: int | None = None, *, incognito: bool = False) -> None:
        """Open the first chat, a new one until a saved one is loaded."""
        await self.new_chat(incognito=incognito)
        first = self._load_first(self._chat, None if incognito else conversation_id)
        self.view.run_worker(first, exit_on_error=False)

    async def _load_first(self, first: OpenChat, conversation_id: int | None) -> None:
        """Load what a new chat shows of earlier runs, then the chat to open."""
        store = self.saved_store
        if first.store is store:
            draft = await self._loader.load_new_draft(store)
            if self._chat is first and first.conversation_id is None and not self._opening:
                self.drafts.add_saved(store, draft)
        await self._loader.load_history(store)
        if conversation_id is not None:
            await self.open_chat(conversation_id)

    async def new_chat(self, *, incognito: bool = False) -> None:
        """Open a new chat, stored with its first message; an incognito one in memory only.

        In a project, it stays there, and begins with what the user saved for it.

        It is incognito too where the saved chats cannot be written.
        """
        self._opening = None
        in_memory = incognito or self.saved_store.unwritable is not None
        store = open_memory_store() if in_memory else self.saved_store
        project = self.conversation.project
        setup = self.project_setups.get(project.folder, Setup()) if project else Setup()
        chat = OpenChat(
            store,
            system=setup.system or self._services.config.system,
            sampling=setup.sampling,
            plugin_data=setup.plugin_data,
            project=project,
        )
        async with self._draw_lock:
            await self._switch_chat(chat, self.drafts.of_new_chat(store))

    async def open_chat(
        self, conversation_id: int, turn_id: int | None = None, *, shows_thoughts: bool = False
    ) -> bool:
        """Load a saved chat and show it, at a turn if one is named.

        Only the chat that was asked for last is shown. What is typed and sent meanwhile is meant
        for it.

        Args:
            conversation_id: the chat.
            turn_id: the turn.
            shows_thoughts: whether the thoughts of the turn are opened.

        Returns:
            False when it cannot be read, which the user is told, or when another one is opened.
        """
        self.save_draft()
        self._opening = opening = object()
        self.drafts.leave()
        store = self.saved_store
        try:
            loaded, draft = await self._loader.load(store, conversation_id)
        except StoreError as error:
            if self._opening is opening:
                self._opening = self._submitted_early = None
                self.drafts.stay()
                await self.view.show_notice(error)
            return False
        if self._opening is not opening:
            return False
        self._opening = None
        async with self._draw_lock:
            await self._switch_chat(self._chat_of(store, loaded), draft)
        if turn_id is not None:
            view = await self.view.transcript.reveal_turn(turn_id)
            if view is not None and shows_thoughts:
                await self.view.transcript.open_thoughts(view, True)
        if submitted := self._submitted_early:
            self._submitted_early = None
            self._submit(submitted)
        return True

    def _chat_of(self, store: Store, loaded: Conversation) -> OpenChat:
        """Return the chat of the running turn if it is this one, else a newly opened chat."""
        live = self._live_turn
        if live is None or (live.chat.store, live.chat.conversation_id) != (store, loaded.id):
            return OpenChat(store, loaded.id, loaded=loaded)
        live.chat.loaded = loaded
        if live.turn is not None:
            live.chat.update_turn(live.turn)
        return live.chat

    def read_then(self, read: Callable[[], T], show: Callable[[T], object], what: str) -> None:
        """Read something of the store in a thread, then show it; errors are shown in a toast.

        Args:
            read: runs in the thread.
            show: is given the result in the UI thread.
            what: names the action in the log.
        """

        async def work() -> None:
            show(await self.reads.submit(read))

        self.view.run_worker(self.view.run_reporting_errors(work, what), exit_on_error=False)

    async def fork_chat(self, turns: int) -> None:
        """Fork the open chat after its first `turns` turns, and open the fork.

        Raises:
            UsageError: the chat is empty, or the last of these turns is running.
        """
        if self.conversation_id is None:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        live = self._live_turn
        if live and live.chat is self._chat and live.turn and live.turn.position < turns:
            self.require_idle()
        store = self.store
        fork = await self.edits.write_queue.submit(partial(store.fork, self.conversation_id, turns))
        async with self._draw_lock:
            await self._switch_chat(OpenChat(store, fork.id, loaded=fork), "")

    async def leave_chat(self, proceed: Callable[[], Awaitable[object]]) -> None:
        """Leave the open chat; ask first if it is incognito and has messages.

        Args:
            proceed: called at once or after the user's answer; not called if the user stays.
        """
        asked = isinstance(self.view.app.screen, LeaveIncognitoScreen)
        if self.incognito and self.conversation_id is not None and not asked:
            self.view.run_worker(self._confirm_and_leave(proceed), exit_on_error=False)
        else:
            await proceed()

    async def _confirm_and_leave(self, proceed: Callable[[], Awaitable[object]]) -> None:
        try:
            saves = await self.view.app.push_screen_wait(
                LeaveIncognitoScreen(can_save=self.saved_store.can_save)
            )
            if saves:
                await self._save_incognito()
            if saves is not None:
                await proceed()
        except Exception as problem:
            if error := to_user_error(problem, "leaving a chat"):
                self.view.toast(error)

    async def _save_incognito(self) -> None:
        """Stop a running reply and copy the incognito chat to the saved chats."""
        chat, live = self._chat, self._live_turn
        if live is not None and live.chat is chat:
            live.stop.set()
            await self.edits.write_queue.submit(partial(live.done.wait, SAVE_SECONDS))
        if chat.conversation_id is not None:
            draft = self.composer.dump_draft()
            await self.edits.write_queue.submit(
                partial(
                    copy_incognito_chats, chat.store, self.saved_store, chat.conversation_id, draft
                )
            )
            self.view.notify("The chat is saved.", markup=False)

    async def _switch_chat(self, chat: OpenChat, draft: str) -> None:
        """Show another chat, which is loaded, with its draft."""
        self.save_draft()
        self._opening = None
        before, self._chat, live = self._chat, chat, self._live_turn
        self.drafts.enter(chat, draft)
        if live is not None and live.chat is before:
            live.view = None
        if before.store is not chat.store:
            self._discard_incognito(before)
        conversation = chat.conversation
        turns = conversation.turns
        self._show_project(conversation)
        await self.view.show_chat(conversation.title, turns, incognito=self.incognito)
        self.view.status = Status.for_turn(turns[-1]) if turns else Status()
        if live is not None and live.chat is chat and (view := self.view.newest_view):
            await live.attach(view)
            self._sync_status(live)
        self.switch_count += 1
        self.notify_changed()
        self.view.post_message(ChatView.Switched())
        self._start_read_ahead()

    def _discard_incognito(self, chat: OpenChat) -> None:
        """Close the store of an incognito chat that is left, after its running reply."""
        if chat.store is self.saved_store:
            return
        if self._live_turn is not None and self._live_turn.chat is chat:
            self._live_turn.stop.set()
        else:
            drop = partial(drop_incognito, chat.store, self._services.plugins)
            self.edits.write_queue.submit(drop)

    def _sync_status(self, live: LiveTurn) -> None:
        if live.chat is self._chat:
            self.view.status = live.status

    def pause_read_ahead(self) -> None:
        """Stop reading ahead, so that something else can use the model.

        Raises:
            UsageError: a turn is running.
        """
        self.require_idle()
        self._read_ahead.stop()

    def resume_read_ahead(self) -> None:
        """Read ahead again."""
        self._start_read_ahead()

    def stop(self) -> bool:
        """Stop the running turn and the read-ahead; return whether a turn was running."""
        self._read_ahead.stop()
        if self._live_turn is not None:
            self._live_turn.stop.set()
        return self._live_turn is not None

    def stop_and_wait(self, seconds: float) -> None:
        """Save the draft, stop the running turn and wait until it is stored.

        Works without a terminal.
        """
        self.save_draft()
        self._read_ahead.stop()
        if self._live_turn is not None:
            self._live_turn.stop.set()
            self._live_turn.done.wait(seconds)
            self.drafts.save(self._chat)  # the message is stored now, or it never will be
        self.drafts.wait(seconds)
        self.edits.write_queue.wait(seconds)

    def send_message(self, text: str, images: Sequence[PreparedImage] = ()) -> bool:
        """Send a message; return False, with a toast, while a turn is running."""
        return self._start_turn(lambda session: session.send(text, images), message=text)

    def continue_reply(self) -> None:
        """Continue a reply that was cut short."""
        self._start_turn(ChatSession.continue_reply)

    def regenerate(self) -> None:
        """Regenerate the newest reply, or reload a model that failed."""
        if self.view.newest_view is None and isinstance(self._services.engine_state, Failed):
            self._services.load_engine()
        else:
            self._start_turn(ChatSession.regenerate)

    def _submit(self, event: Composer.Submitted) -> None:
        text, images, position = event.text, event.images, event.edited_position
        if self._opening is not None:
            self._submitted_early = event
            return
        try:
            self.require_idle()
        except UsageError as error:
            self.composer.show_unsent(_in_one_line(error))
            return
        if position is None:
            sent = self.send_message(text, images)
        else:
            sent = self._start_turn(
                lambda session: session.edit(position, text, images), message=text
            )
        if sent:
            self.composer.confirm_submitted(event)
            if self.conversation_id is None:
                self.drafts.take_sent(self.store)

    def _start_turn(
        self, open_events: Callable[[ChatSession], SessionEvents], message: str = ""
    ) -> bool:
        """Start a turn in the worker; return False, with a toast, while one is running."""
        try:
            self.require_idle()
        except UsageError as error:
            self.view.toast(error)
            return False
        if isinstance(self._services.engine_state, Failed):
            self._services.load_engine()
        self._read_ahead.stop()
        start = dataclasses.replace(self._chat)
        live = self._live_turn = LiveTurn(self._chat, start, unsaved_message=message)
        if not message and (view := self.view.newest_view):
            live.view, live.turn = view, view.turn
        loading = isinstance(self._services.engine_state, Loading)
        live.show_activity("waiting for the model" if loading else "…")
        session = self._services.create_session(self._chat, live.stop)
        self.view.run_worker(
            partial(self._run_turn, partial(open_events, session), live),
            thread=True,
            exclusive=True,
            group="turn",
            exit_on_error=False,
        )
        self.view.post_message(ChatView.Started())
        return True

    def _run_turn(self, open_events: Callable[[], SessionEvents], live: LiveTurn) -> None:
        """Run a turn in the worker thread."""
        self.edits.write_queue.wait()  # the turn must see all earlier changes
        try:
            turn_id = live.turn.id if live.turn else None
            run_turn(open_events, live.stop, self._post, live.chat.store.turn, turn_id)
        finally:
            live.done.set()

    def _post(self, message: TurnMessage) -> None:
        """Have a worker's message handled in the UI thread."""
        self.view.call_later(self._handle, message)

    async def _handle(self, message: TurnMessage) -> None:
        async with self._draw_lock:
            live = self._live_turn
            if live is None:
                return
            match message:
                case TurnProgressed():
                    await self._show_event(live, message)
                case TextStreamed():
                    await live.append_text(message)
                    self._sync_status(live)
                case TurnEnded():
                    await self._finish_turn(live, message)

    def _start_read_ahead(self) -> None:
        """Read ahead if the model is loaded and idle."""
        chat, ready = self._chat, isinstance(self._services.engine_state, Ready)
        if ready and self._live_turn is None and chat.conversation_id is not None:
            show = partial(self.view.call_later, self._show_compacted, chat)
            self._read_ahead.start(
                partial(self._services.create_session, chat),
                chat.conversation,
                show if self._services.config.auto_compact else None,
            )
        else:
            self._read_ahead.stop()

    async def _show_compacted(self, chat: OpenChat, turn: Turn) -> None:
        """Show that a summary took the place of a turn, if its chat is still open."""
        async with self._draw_lock:
            chat.update_turn(turn)
            if chat is not self._chat:
                return
            await self.view.transcript.update_turn(turn)
        self.notify_changed()

    async def _show_event(self, live: LiveTurn, message: TurnProgressed) -> None:
        match message.event:
            case TurnStarted(conversation=conversation, turn=turn):
                await self._show_started(live, conversation, turn)
            case MessageRewritten(turn=turn):
                live.chat.update_turn(turn)
                await live.apply_event(message.event)
            case TurnWithdrawn():
                await self._withdraw_turn(live, message.event)
            case Notice(text=text, topic=topic):
                await self.view.show_notice(text, topic)
            case ApprovalNeeded() | ToolQuestion():
                await live.apply_event(message.event)
                self._ask_user(live, message.event, message.answered)
            case step:
                await live.apply_event(step)
        self._sync_status(live)

    def _ask_user(
        self, live: LiveTurn, event: ApprovalNeeded | ToolQuestion, answered: threading.Event | None
    ) -> None:
        """Show the card of a call that waits for the user."""
        app = self.view.app

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
        other = "" if live.chat is self._chat else export.display_title(live.chat.conversation)
        app.push_screen(ApprovalScreen(event, other), close)

    async def _show_started(self, live: LiveTurn, conversation: Conversation, turn: Turn) -> None:
        """Show a message that was just stored, in the fork if it is an edited one."""
        live.turn, live.unsaved_message = turn, ""
        self._loader.add_sent(live.chat.store, turn.display_text)
        if live.chat.conversation_id not in (None, conversation.id):
            live.draft_at_start = self.composer.dump_draft()
            chat = OpenChat(live.chat.store, conversation.id, loaded=conversation)
            await self._switch_live_chat(live, chat, "")
            return
        if live.chat is self._chat:
            await live.attach(await self.view.add_turn(turn))
        is_new = live.chat.conversation_id is None
        if is_new:
            live.chat.conversation_id, live.chat.loaded = conversation.id, conversation
            self.edits.store_changes(live.chat, live.chat_at_start)
            if live.chat is not self._chat:
                self.drafts.save_new_chat(live.chat.store)
        live.chat.update_turn(turn)
        self.save_draft()
        self.notify_changed()

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
        if live.chat is self._chat:
            await self.view.remove_newest()
        self.notify_changed()

    async def _switch_live_chat(self, live: LiveTurn, chat: OpenChat, draft: str) -> None:
        """Follow an edited message to its fork, or back; show that chat if the other is open."""
        is_open, live.chat = live.chat is self._chat, chat
        if is_open:
            await self._switch_chat(chat, draft)
        else:
            self.notify_changed()

    async def _finish_turn(self, live: LiveTurn, message: TurnEnded) -> None:
        self.composer.show_unsent("")
        if isinstance(card := self.view.app.screen, ApprovalScreen | QuestionScreen):
            card.dismiss(None)  # the turn ended in another way
        refused = bool(live.unsaved_message) and isinstance(message.error, UsageError)
        if live.unsaved_message:
            reason = "typing replaces it" if refused else ""
            self.composer.restore_unsent(live.unsaved_message, reason)
            live.unsaved_message = ""
            self.save_draft()
        self._loader.ended_turns += 1
        await self._show_stored_turn(live, message)
        if refused and live.chat is self._chat:
            await self.view.show_notice(str(message.error), "refused")
        elif message.error is not None:
            await self._report_error(message.error, live)
        self._live_turn = None
        if live.chat.store is not self._chat.store:
            self._discard_incognito(live.chat)
        self._start_read_ahead()
        self.notify_changed()

    async def _show_stored_turn(self, live: LiveTurn, ended: TurnEnded) -> None:
        """Replace the streamed turn by the stored one, if it was stored."""
        if live.turn is None:
            return
        if ended.turn is not None:
            turn = live.with_streamed_text(ended.turn)
        else:
            turn = live.as_unsaved(live.turn)
            if ended.unread is not None and live.chat is self._chat:
                await self.view.show_notice(ended.unread)
        live.chat.update_turn(turn)
        if live.view is not None:
            await live.view.show_turn(turn)
            self.view.status = Status.for_turn(turn, self.view.status.used_tokens)

    async def _report_error(self, error: ChatlmError, live: LiveTurn) -> None:
        """Show an error in the transcript, or only in a toast if that suffices."""
        state = self._services.engine_state
        if isinstance(state, Failed) and state.error is error:
            return  # the banner says it
        reply = live.view.turn.reply if live.view else None
        below = reply is not None and reply.error == str(error)
        if below or live.chat is not self._chat or isinstance(error, UsageError):
            self.view.toast(error)
        else:
            await self.view.show_notice(error)

    async def show_engine_state(self, state: EngineState) -> None:
        """Show the state of the engine; when it is ready, use it."""
        self.view.show_engine_state(state)
        if isinstance(state, Ready):
            self._start_read_ahead()
            self.composer.recount_files()
            notes = {note: (state.info.model, note) for note in state.info.notes}
            news = [note for note, key in notes.items() if key not in self._told_notes]
            self._told_notes |= set(notes.values())
            if news:
                await self.view.show_notice("\n".join(news), "model")

    def notify_changed(self) -> None:
        """Announce a change of the chats."""
        self.view.post_message(ChatView.Changed())

    async def redraw(self, turn_id: int | None = None) -> None:
        """Load the chat again and show it, at a turn if one is named; a chat that cannot be read
        is told."""
        chat = self._chat
        if chat.conversation_id is not None:
            try:
                loaded, _ = await self._loader.load(chat.store, chat.conversation_id)
            except StoreError as error:
                self.view.toast(error)
                self.resume_read_ahead()
                return
            if chat is not self._chat:
                return
            chat.loaded = loaded
        async with self._draw_lock:
            for turn in chat.conversation.turns:
                await self.view.transcript.update_turn(turn)
        if turn_id is not None:
            await self.view.transcript.reveal_turn(turn_id)
        self.notify_changed()
        self.resume_read_ahead()

    def refresh_title(self) -> None:
        """Show the title, then what is stored of the chat's header, which others may change; a
        deleted chat keeps its old title on the screen."""
        self._show_project(self.conversation)
        self.view.show_title(export.display_title(self.conversation) or NEW_CHAT)
        if self.conversation_id is not None:
            self.view.run_worker(self._refresh_header(), exit_on_error=False)

    def _show_project(self, conversation: Conversation) -> None:
        project = conversation.project
        self.view.header.project = project.name if project else ""

    async def _refresh_header(self) -> None:
        chat, edits = self._chat, self.edits.count
        if chat.conversation_id is None:
            return
        with suppress(StoreError):
            header = await self.reads.submit(partial(chat.store.header, chat.conversation_id))
            # an edit since then is in the loaded chat, and refreshes the title when it is stored
            if chat.loaded is not None and edits == self.edits.count:
                chat.loaded = chat.loaded.with_header(header)
                if chat is self._chat:
                    self.view.show_title(export.display_title(chat.loaded) or NEW_CHAT)

    def _saved_id(self, chat: OpenChat) -> int | None:
        return chat.conversation_id if chat.store is self.saved_store else None

    def _suggest_text(self, text: str) -> str:
        """Ask plugins for a suggestion, in a thread."""
        plugins = self._services.plugins
        if not plugins.implementations("suggest_text"):
            return ""
        return suggest_text(self.conversation, text, plugins)


def _in_one_line(error: ChatlmError) -> str:
    """Return an error and its hint as they fit into a border."""
    parts = (error.message, error.hint.rstrip("."))
    return " · ".join(filter(None, (part[:1].lower() + part[1:] for part in parts)))
