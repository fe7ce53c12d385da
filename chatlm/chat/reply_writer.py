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
        self._withheld = ""
        self._usage = Usage()
        self._reason = StopReason.CANCELLED
        self._error: str | None = None
        self._saved_at = time.monotonic()
        self._started = False
        self._save_failed = False
        self._stored = False
        self.provenance: Provenance | None = None
        """What makes the reply, to be stored with it."""
        self.finished = False
        """Whether the engine came to its own end."""

    def add(self, event: Delta | Finished) -> str | None:
        """Add what the event brings; returns a sentence for the person when saving fails.

        The first token waits for no disk.
        """
        self._usage = event.usage
        if isinstance(event, Finished):
            self._reason, self._withheld, self.finished = event.stop_reason, "", True
            return self._save(self._finish) or self._save_provenance()
        self._text += event.text
        self._withheld = event.withheld
        first, self._started = not self._started, True
        if first:
            self._saved_at = time.monotonic()
        if first or time.monotonic() - self._saved_at < JOURNAL_SECONDS:
            return None
        self._saved_at = time.monotonic()
        journal = self._store.journal_reply
        return (
            self._save(lambda: journal(self._reply.id, self._text + self._withheld))
            or self._save_provenance()
        )

    def fail(self, error: Exception) -> None:
        """Remember what ended the reply."""
        self._reason, self._error = StopReason.ERROR, str(error)

    def close(self) -> None:
        """Store the reply as it is, if that has not been done or did not work."""
        if not self._stored:
            self._save(self._finish)
        self._save_provenance()

    def _finish(self) -> None:
        before, text = self._reply, self._text + self._withheld
        if before.stop_reason and not self.finished and text == before.text:
            # it was not gone on with, and is what it was
            reason, error, self.provenance = before.stop_reason, before.error, None
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

    def _save_provenance(self) -> str | None:
        """Store `made_by`, tried once, when the reply itself can be stored."""
        made_by = self.provenance
        if made_by is None or self._save_failed:
            return None
        self.provenance = None
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
            first, self._save_failed = not self._save_failed, True
            return f"The reply is not being saved. {error}" if first else None
        self._save_failed = False
        return None
