"""A reply while it grows: on disk all the time, and closed once, whatever ends it."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from chatlm.errors import StoreError
from chatlm.store.store import Store
from chatlm.types.events import Delta, Finished
from chatlm.types.messages import Reply, StopReason, Usage
from chatlm.types.provenance import Provenance

log = logging.getLogger(__name__)


JOURNAL_SECONDS = 0.5
"""How much of a growing reply a killed program may lose."""


class ReplyWriter:
    """Takes a generation's events and stores what they say.

    Args:
        store: where the reply is kept.
        reply: the stored reply, with the text it goes on from.
        settings: JSON of the sampling that makes it.
    """

    def __init__(self, store: Store, reply: Reply, settings: str) -> None:
        self._store = store
        self._reply = reply
        self._settings = settings
        self._text = reply.text
        self._held = ""
        self._usage = Usage()
        self._reason = StopReason.CANCELLED
        self._error: str | None = None
        self._saved_at = time.monotonic()
        self._begun = False
        self._trouble = False
        self._stored = False
        self.made_by: Provenance | None = None
        """What makes the reply, to be stored with it."""
        self.ended = False
        """Whether the engine came to its own end."""

    def take(self, event: Delta | Finished) -> str | None:
        """Add what the event brings; returns a sentence for the person when saving fails.

        The first token waits for no disk.
        """
        self._usage = event.usage
        if isinstance(event, Finished):
            self._reason, self._held, self.ended = event.stop_reason, "", True
            return self._save(self._finish) or self._keep_making()
        self._text += event.text
        self._held = event.held
        first, self._begun = not self._begun, True
        if first:
            self._saved_at = time.monotonic()
        if first or time.monotonic() - self._saved_at < JOURNAL_SECONDS:
            return None
        self._saved_at = time.monotonic()
        journal = self._store.journal
        return (
            self._save(lambda: journal(self._reply.id, self._text + self._held))
            or self._keep_making()
        )

    def fail(self, error: Exception) -> None:
        """Remember what ended the reply."""
        self._reason, self._error = StopReason.ERROR, str(error)

    def close(self) -> None:
        """Store the reply as it is, if that has not been done or did not work."""
        if not self._stored:
            self._save(self._finish)
        self._keep_making()

    def _finish(self) -> None:
        before, text = self._reply, self._text + self._held
        if before.stop_reason and not self.ended and text == before.text:
            # it was not gone on with, and is what it was
            reason, error, self.made_by = before.stop_reason, before.error, None
            settings, usage = before.settings, before.usage
        else:
            reason, error, settings = self._reason, self._error, self._settings
            usage = dataclasses.replace(
                self._usage,
                completion_tokens=before.usage.completion_tokens + self._usage.completion_tokens,
                decode_seconds=before.usage.decode_seconds + self._usage.decode_seconds,
            )
        self._store.finish_reply(
            before.id, text=text, stop_reason=reason, usage=usage, settings=settings, error=error
        )
        self._stored = True

    def _keep_making(self) -> str | None:
        """Store `made_by`, tried once, when the reply itself can be stored."""
        made_by = self.made_by
        if made_by is None or self._trouble:
            return None
        self.made_by = None
        try:
            self._store.save_provenance(self._reply.id, made_by)
        except StoreError as error:
            log.error("provenance not saved: %s", error)
            return f"What makes this reply is not kept, so it cannot be replayed. {error}"
        return None

    def _save(self, write: Callable[[], object]) -> str | None:
        """Write; a failure is told once, and the reply goes on without being saved."""
        try:
            write()
        except StoreError as error:
            log.error("reply not saved: %s", error)
            first, self._trouble = not self._trouble, True
            return f"The reply is not being saved. {error}" if first else None
        self._trouble = False
        return None
