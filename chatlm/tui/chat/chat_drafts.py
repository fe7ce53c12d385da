"""Save and load the composer's draft of the open chat."""

from __future__ import annotations

from chatlm.errors import StoreError
from chatlm.tui.chat.chat_view import ChatView
from chatlm.tui.composer.drafts import DraftSaver
from chatlm.tui.services import OpenChat


class ChatDrafts:
    """The draft in the composer, saved with the chat that is open.

    Args:
        view: whose composer it is.
    """

    def __init__(self, view: ChatView) -> None:
        self._saver = DraftSaver()
        self._view = view
        self._last: tuple[int | None, str] = (None, "")
        """Conversation id and draft that were saved or loaded last."""

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
        if current == last:
            return
        self._saver.save(chat.store, *current)
        if last[0] is None and current[0] is not None:
            self._saver.save(chat.store, None, "")  # the new chat has become this one
        self._last = current

    def load(self, chat: OpenChat) -> None:
        """Show the draft that was saved with a chat."""
        draft = ""
        try:
            draft = self._saver.load(chat.store, chat.conversation_id)
        except StoreError as error:
            self._view.toast(error)
        self._view.composer.load_draft(draft)
        self._last = (chat.conversation_id, self._view.composer.dump_draft())
