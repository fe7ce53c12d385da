"""Read chats, drafts and the message history in a thread."""

from __future__ import annotations

from contextlib import suppress

from chatlm.errors import StoreError
from chatlm.store.store import Store
from chatlm.tui.chat.chat_drafts import ChatDrafts
from chatlm.tui.workers import ReadQueue
from chatlm.types.conversations import Conversation


class ChatLoader:
    """Reads what the chat pane shows; used in the UI thread.

    Args:
        reads: runs the reads.
        drafts: knows the drafts that are not saved yet.
    """

    def __init__(self, reads: ReadQueue, drafts: ChatDrafts) -> None:
        self._reads = reads
        self._drafts = drafts
        self._history: dict[Store, list[str]] = {}
        """The messages that were sent, newest first, as far as they are read."""
        self.ended_turns = 0
        """How many turns have ended; what was read before may lack the last one."""

    async def load(self, store: Store, conversation_id: int) -> tuple[Conversation, str]:
        """Load a chat and its draft; again if a turn has ended meanwhile, which may be its.

        Raises:
            StoreError: it cannot be read.
        """

        def read() -> tuple[Conversation, str]:
            return store.conversation(conversation_id), self._drafts.read(store, conversation_id)

        while True:
            ended = self.ended_turns
            loaded = await self._reads.submit(read)
            if ended == self.ended_turns:
                return loaded

    async def load_new_draft(self, store: Store) -> str:
        """Load the draft of the new chat; empty if it cannot be read, which the chat list tells."""
        try:
            return await self._reads.submit(lambda: self._drafts.read(store, None))
        except StoreError:
            return ""

    async def load_history(self, store: Store) -> None:
        """Load the messages that were sent in a store, for `sent_messages`."""
        with suppress(StoreError):  # without a history one can still write
            sent = await self._reads.submit(store.recent_inputs)
            self._history[store] = list(dict.fromkeys([*self._history.get(store, ()), *sent]))

    def add_sent(self, store: Store, text: str) -> None:
        """Add a message to the history."""
        self._history[store] = list(dict.fromkeys([text, *self._history.get(store, ())]))

    def sent_messages(self, store: Store) -> list[str]:
        """Return the messages that were sent, newest first, as far as they are loaded."""
        return self._history.get(store, [])
