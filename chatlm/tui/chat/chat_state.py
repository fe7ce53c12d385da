"""What the parts of the chat pane share: the open chat and the turn that is running."""

from __future__ import annotations

import asyncio
from functools import partial

from chatlm.chat.deletion import drop_incognito
from chatlm.errors import UsageError
from chatlm.store.store import Store
from chatlm.tui import commands
from chatlm.tui.chat.chat_drafts import ChatDrafts
from chatlm.tui.chat.chat_view import ChatView
from chatlm.tui.chat.live_turn import LiveTurn
from chatlm.tui.services import OpenChat, Services
from chatlm.tui.workers import WriteQueue
from chatlm.types.conversations import Conversation


class ChatState:
    """The open chat, saved or incognito, and the turn that is running in it or another chat.

    Used in the UI thread.

    Args:
        services: shared services.
        view: shows the open chat.
    """

    def __init__(self, services: Services, view: ChatView) -> None:
        self.services = services
        self.view = view
        self.saved_store = services.store
        self.chat = OpenChat(services.store)
        self.live_turn: LiveTurn | None = None
        """The turn that is running, in this chat or another."""
        self.draw_lock = asyncio.Lock()
        """Held while a turn is drawn or the chat is switched, which different pumps start."""
        self.drafts = ChatDrafts(view)
        self.write_queue = WriteQueue()

    @property
    def store(self) -> Store:
        """The store of the open chat."""
        return self.chat.store

    @property
    def conversation(self) -> Conversation:
        """The open chat as it was loaded or changed last; never waits for the store."""
        return self.chat.conversation

    @property
    def incognito(self) -> bool:
        """Whether the open chat is in memory only."""
        return self.chat.store is not self.saved_store

    def saved_id(self, chat: OpenChat) -> int | None:
        """Return the id of a chat if it is saved."""
        return chat.conversation_id if chat.store is self.saved_store else None

    def require_idle(self) -> None:
        """Check that no turn is running.

        Raises:
            UsageError: a turn is running.
        """
        if self.live_turn is not None:
            where = "" if self.live_turn.chat is self.chat else " in another chat"
            stop = commands.key_of("stop")
            raise UsageError(f"A reply is being written{where}", hint=f"{stop} stops it.")

    def save_draft(self) -> None:
        """Save the draft of the open chat, if it has changed.

        While a message is being stored, its draft stays as it is, so that one of both is on disk.
        """
        live = self.live_turn
        if live is None or live.chat is not self.chat or not live.unsaved_message:
            self.drafts.save(self.chat)

    def discard_incognito(self, chat: OpenChat) -> None:
        """Close the store of an incognito chat that is left, after its running reply."""
        if chat.store is self.saved_store:
            return
        if self.live_turn is not None and self.live_turn.chat is chat:
            self.live_turn.stop.set()
        else:
            self.write_queue.submit(partial(drop_incognito, chat.store, self.services.plugins))

    def show_live_status(self) -> None:
        """Show the status of the running turn, if it is in the open chat."""
        if self.live_turn is not None and self.live_turn.chat is self.chat:
            self.view.status = self.live_turn.status

    def notify_changed(self) -> None:
        """Announce a change of the chats."""
        self.view.post_message(ChatView.Changed())
