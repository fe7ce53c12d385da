"""What is done to saved chats beside their turns, in a writer's thread; knows no widget."""

from __future__ import annotations

from chatlm.errors import UsageError
from chatlm.store import Store
from chatlm.text import one_line
from chatlm.tui.widgets import chat_rows


class ChatChanges:
    """Each takes the id of a chat and gives what it is called, for the person.

    All raise a `StoreError` where the chat is gone or cannot be written.

    Args:
        store: where the chats are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._deleted: list[int] = []
        """The last deleted at the end."""

    @property
    def can_undo(self) -> bool:
        """Whether a chat was deleted that can be brought back."""
        return bool(self._deleted)

    def rename(self, conversation_id: int, title: str) -> str:
        """Give it a title; an empty one takes the title away."""
        self._store.rename(conversation_id, title)
        return self._name(conversation_id)

    def toggle_pin(self, conversation_id: int) -> tuple[str, bool]:
        """Keep it at the top, or no longer; gives whether it is there now too."""
        pinned = not self._store.conversation(conversation_id).pinned
        self._store.set_pinned(conversation_id, pinned)
        return self._name(conversation_id), pinned

    def delete(self, conversation_id: int) -> str:
        """Put it into the trash."""
        name = self._name(conversation_id)
        self._store.trash(conversation_id)
        self._deleted.append(conversation_id)
        return name

    def undo(self) -> tuple[str, int]:
        """Bring back the one that was deleted last; gives its id too.

        Raises:
            UsageError: there is none.
        """
        if not self._deleted:
            raise UsageError("There is no deleted chat to bring back.")
        conversation_id = self._deleted.pop()
        self._store.restore(conversation_id)
        return self._name(conversation_id), conversation_id

    def _name(self, conversation_id: int) -> str:
        return one_line(self._store.title(conversation_id), 40) or chat_rows.UNTITLED
