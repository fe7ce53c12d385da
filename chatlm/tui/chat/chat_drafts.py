"""Save and show the composer's draft of the open chat."""

from __future__ import annotations

from chatlm.store.store import Store
from chatlm.tui.chat.chat_view import ChatView
from chatlm.tui.composer.drafts import Draft, DraftSaver
from chatlm.tui.services import OpenChat


class ChatDrafts:
    """The draft in the composer, saved with the chat that is open.

    Between `leave` and `enter` the composer belongs to a chat that is being loaded: what is typed
    then is meant for that chat, and nothing is saved.

    Args:
        view: whose composer it is.
    """

    def __init__(self, view: ChatView) -> None:
        self._saver = DraftSaver()
        self._view = view
        self._last: tuple[int | None, str] = (None, "")
        """Conversation id and draft that were saved or shown last."""
        self._new_chat_drafts: dict[Store, str] = {}
        """The draft of each store's new chat, as far as it is known."""
        self._left: str | None = None
        """The draft of the chat that was left, while another one is being loaded."""

    @property
    def saving(self) -> bool:
        """Whether a draft is not yet on disk."""
        return self._saver.saving

    def wait(self, seconds: float) -> None:
        """Wait until all drafts are saved, for at most `seconds`."""
        self._saver.wait(seconds)

    def save(self, chat: OpenChat) -> None:
        """Save the draft, if it or its chat has changed."""
        last, current = self._last, (chat.conversation_id, self._view.composer.dump_draft())
        if current == last or self._left is not None:
            return
        self._save(chat.store, *current)
        if last[0] is None and current[0] is not None:
            self._save(chat.store, None, "")  # the new chat has become this one
        self._last = current

    def read(self, store: Store, conversation_id: int | None) -> str:
        """Read the draft of a chat, saved yet or not; waits for the store.

        Raises:
            StoreError: it cannot be read.
        """
        return self._saver.load(store, conversation_id)

    def of_new_chat(self, store: Store) -> str:
        """Return the draft of a new chat, without waiting for the store."""
        return self._new_chat_drafts.get(store, "")

    def take_sent(self, store: Store) -> None:
        """Show no more of the new chat's draft than is left after its message was sent."""
        self._new_chat_drafts[store] = self._view.composer.dump_draft()

    def save_new_chat(self, store: Store) -> None:
        """Save the draft of the new chat as it is known, once the message taken from it is."""
        self._saver.save(store, None, self.of_new_chat(store))

    def leave(self) -> None:
        """Empty the composer for the chat that is being loaded; its draft has been saved."""
        if self._left is None:
            self._left = self._view.composer.dump_draft()
            self._view.composer.load_draft("")

    def stay(self) -> None:
        """Show the draft of the chat that is not left after all, and what was typed since."""
        if self._left is not None:
            self._show(self._last[0], self._left)

    def enter(self, chat: OpenChat, draft: str) -> None:
        """Show the draft of a chat, and what was typed since `leave`."""
        if self._left is None:
            self._view.composer.load_draft("")
        self._show(chat.conversation_id, draft)

    def add_saved(self, store: Store, draft: str) -> None:
        """Show the draft of the new chat that was saved by an earlier run, before what was typed
        since."""
        self._new_chat_drafts.setdefault(store, draft)
        self._show(None, draft)

    def _show(self, conversation_id: int | None, draft: str) -> None:
        composer = self._view.composer
        typed = Draft() if composer.editing else composer.draft
        self._left = None
        composer.load_draft(draft)
        self._last = (conversation_id, composer.dump_draft())
        if typed.text:
            composer.set_draft(composer.draft + typed)

    def _save(self, store: Store, conversation_id: int | None, state: str) -> None:
        if conversation_id is None:
            self._new_chat_drafts[store] = state
        self._saver.save(store, conversation_id, state)
