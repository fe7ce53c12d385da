"""Saves drafts in a thread, so that no key waits for a slow or locked disk; knows no widget."""

from __future__ import annotations

import logging
import threading

from chatlm.errors import StoreError
from chatlm.store import Store

log = logging.getLogger(__name__)

Place = tuple[Store, int | None]
"""A store, and a chat in it or the new chat."""


class DraftKeeper:
    """The newest draft of each chat is what counts; those before it need not reach the disk."""

    def __init__(self) -> None:
        self._newest: dict[Place, str] = {}
        """What is not yet saved."""
        self._changed = threading.Condition()
        self._saving = False

    @property
    def saving(self) -> bool:
        """Whether something is not yet on disk."""
        return self._saving

    def keep(self, store: Store, conversation_id: int | None, state: str) -> None:
        """Save what is typed in a chat, soon."""
        with self._changed:
            self._newest[store, conversation_id] = state
            if not self._saving:
                self._saving = True
                threading.Thread(target=self._save, name="chatlm-drafts", daemon=True).start()

    def draft(self, store: Store, conversation_id: int | None) -> str:
        """What was typed in a chat, saved yet or not.

        Raises:
            StoreError: it cannot be read.
        """
        with self._changed:
            waiting = self._newest.get((store, conversation_id))
        return store.draft(conversation_id) if waiting is None else waiting

    def wait(self, seconds: float) -> None:
        """Let all be saved, if it takes no longer."""
        with self._changed:
            self._changed.wait_for(lambda: not self._saving, seconds)

    def _save(self) -> None:
        while True:
            with self._changed:
                if not self._newest:
                    self._saving = False
                    self._changed.notify_all()
                    return
                (store, conversation_id), state = next(iter(self._newest.items()))
            try:
                store.save_draft(conversation_id, state)
            except StoreError as error:  # typing must go on; sending will say what is wrong
                log.info("draft not saved: %s", error)
            with self._changed:
                if self._newest[store, conversation_id] == state:
                    del self._newest[store, conversation_id]
