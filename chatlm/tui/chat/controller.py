"""The logic behind the chat pane: its parts, and what others ask about the open chat."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from textual.content import Content

from chatlm.chat.attachments import AttachmentReader
from chatlm.chat.session import ChatSession
from chatlm.chat.suggestions import suggest_text
from chatlm.chat.web_images import named_hosts
from chatlm.errors import ChatlmError, StoreError, UsageError
from chatlm.store import export
from chatlm.store.store import Store
from chatlm.tui.chat.chat_loader import ChatLoader
from chatlm.tui.chat.chat_state import ChatState
from chatlm.tui.chat.chat_switch import ChatSwitch
from chatlm.tui.chat.chat_view import NEW_CHAT, ChatView
from chatlm.tui.chat.edits import ChatEdits
from chatlm.tui.chat.image_block import ImageBlock
from chatlm.tui.chat.image_loader import ImageLoader
from chatlm.tui.chat.turn_control import TurnControl
from chatlm.tui.composer.composer import Composer
from chatlm.tui.engine_loader import EngineState, Failed, Ready
from chatlm.tui.services import OpenChat, Services, argument_completers
from chatlm.tui.vision import Vision
from chatlm.tui.widgets.hints import command_hint
from chatlm.tui.workers import ReadQueue
from chatlm.types.conversations import Conversation
from chatlm.types.sampling import Thinking

T = TypeVar("T")


class ChatController:
    """Puts the parts of the chat pane together and answers questions about the open chat.

    Args:
        services: shared services.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self.composer = Composer(
            history=lambda: self.sent_messages,
            count_tokens=services.engine.count_tokens,
            folder_fits=services.engine.fits_context,
            completers=argument_completers(lambda: self.view.app.available_themes),
            read_file=AttachmentReader(services.plugins),
            vision=Vision(lambda: services.engine.engine),
            web_hosts=named_hosts(services.config),
            pasted=services.pasted_images,
            resources=services.resources,
            suggest=self._suggest_text,
            vim=services.config.vim,
        )
        self.view = ChatView(
            services.clock,
            self.composer,
            on_submitted=self._submit,
            on_draft_changed=self.save_draft,
            on_image_shown=self._load_image,
        )
        self.state = ChatState(services, self.view)
        self._images = ImageLoader(self.state)
        self.edits = ChatEdits(self.state, redraw=self.redraw)
        self._reads = ReadQueue(self.state.write_queue)
        self._loader = ChatLoader(self._reads, self.state.drafts)
        self.turns = TurnControl(
            self.state,
            self.edits,
            self._loader,
            show_chat=self._show_chat,
        )
        self.switch = ChatSwitch(self.state, self.turns, self._loader, submit=self._submit)
        self._told_notes: set[tuple[str, str]] = set()
        """Notes about models that were shown; each is shown once, and again in the settings."""

    def session(self, stop: threading.Event) -> ChatSession:
        """Return a session of the open chat; setting `stop` ends its wait for the engine."""
        return self._services.create_session(self.state.chat, stop)

    @property
    def saved_store(self) -> Store:
        """The store of all chats that are not incognito."""
        return self.state.saved_store

    @property
    def store(self) -> Store:
        """The store of the open chat."""
        return self.state.store

    @property
    def conversation_id(self) -> int | None:
        """The open chat's id in its store; None before its first message."""
        return self.state.chat.conversation_id

    @property
    def incognito(self) -> bool:
        """Whether the open chat is in memory only."""
        return self.state.incognito

    @property
    def conversation(self) -> Conversation:
        """The open chat as it was loaded or changed last; never waits for the store."""
        return self.state.conversation

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
        return self.state.live_turn is not None

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
        self.state.require_idle()

    @property
    def saved_conversation_id(self) -> int | None:
        """Id of the open chat if it is saved."""
        return self.state.saved_id(self.state.chat)

    @property
    def answering_conversation_id(self) -> int | None:
        """Id of the saved chat in which a turn is running."""
        live = self.state.live_turn
        return self.state.saved_id(live.chat) if live else None

    @property
    def has_pending_writes(self) -> bool:
        """Whether a draft or an edit is not yet on disk."""
        return self.state.drafts.saving or self.state.write_queue.pending

    def save_draft(self) -> None:
        """Save the draft of the open chat, if it has changed."""
        self.state.save_draft()

    def notify_changed(self) -> None:
        """Announce a change of the chats."""
        self.state.notify_changed()

    def _load_image(self, block: ImageBlock) -> None:
        self._images.load(block)

    async def _show_chat(self, chat: OpenChat, draft: str) -> None:
        await self.switch.show_chat(chat, draft)

    def _submit(self, event: Composer.Submitted) -> None:
        """Send what the user wrote, or keep it for the chat that is being loaded."""
        text, images, position = event.text, event.images, event.edited_position
        if self.switch.hold_message(event):
            return
        try:
            self.require_idle()
        except UsageError as error:
            self.composer.show_unsent(_in_one_line(error))
            return
        if position is None:
            sent = self.turns.send_message(text, images)
        else:
            sent = self.turns.start(
                lambda session: session.edit(position, text, images), message=text
            )
        if sent:
            self.composer.confirm_submitted(event)
            if self.conversation_id is None:
                self.state.drafts.take_sent(self.store)

    def read_then(self, read: Callable[[], T], show: Callable[[T], object], what: str) -> None:
        """Read something of the store in a thread, then show it; errors are shown in a toast.

        Args:
            read: runs in the thread.
            show: is given the result in the UI thread.
            what: names the action in the log.
        """

        async def work() -> None:
            show(await self._reads.submit(read))

        self.view.run_worker(self.view.run_reporting_errors(work, what), exit_on_error=False)

    async def show_engine_state(self, state: EngineState) -> None:
        """Show the state of the engine; when it is ready, use it."""
        self.view.show_engine_state(state)
        if isinstance(state, Ready):
            self.turns.resume_read_ahead()
            self.composer.recount_files()
            notes = {note: (state.info.model, note) for note in state.info.notes}
            news = [note for note, key in notes.items() if key not in self._told_notes]
            self._told_notes |= set(notes.values())
            if news:
                await self.view.show_notice("\n".join(news), "model")

    async def redraw(self, turn_id: int | None = None) -> None:
        """Load the chat again and show it, at a turn if one is named; a chat that cannot be read
        is told."""
        chat = self.state.chat
        if chat.conversation_id is not None:
            try:
                loaded, _ = await self._loader.load(chat.store, chat.conversation_id)
            except StoreError as error:
                self.view.toast(error)
                self.turns.resume_read_ahead()
                return
            if chat is not self.state.chat:
                return
            chat.loaded = loaded
        async with self.state.draw_lock:
            for turn in chat.conversation.turns:
                await self.view.transcript.update_turn(turn)
        if turn_id is not None:
            await self.view.transcript.reveal_turn(turn_id)
        self.notify_changed()
        self.turns.resume_read_ahead()

    def refresh_title(self) -> None:
        """Show the title, then what is stored of the chat's header, which others may change; a
        deleted chat keeps its old title on the screen."""
        self.view.header.set_project(self.conversation.project)
        self.view.show_title(export.display_title(self.conversation) or NEW_CHAT)
        if self.conversation_id is not None:
            self.view.run_worker(self._refresh_header(), exit_on_error=False)

    async def _refresh_header(self) -> None:
        chat, edits = self.state.chat, self.edits.count
        if chat.conversation_id is None:
            return
        with suppress(StoreError):
            header = await self._reads.submit(partial(chat.store.header, chat.conversation_id))
            # an edit since then is in the loaded chat, and refreshes the title when it is stored
            if chat.loaded is not None and edits == self.edits.count:
                chat.loaded = chat.loaded.with_header(header)
                if chat is self.state.chat:
                    self.view.show_title(export.display_title(chat.loaded) or NEW_CHAT)

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
