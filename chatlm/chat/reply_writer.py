"""Writer that saves a reply while it grows and closes it once, whatever ends it."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from chatlm.chat.thought_meter import ThoughtMeter
from chatlm.errors import ContentFiltered, StoreError
from chatlm.store.store import Store
from chatlm.types.events import Delta, Finished
from chatlm.types.parts import Part, Reasoning, Text, ToolCall
from chatlm.types.provenance import Provenance
from chatlm.types.replies import Reply, ReplyStep, StopReason, StreamedPart, Usage

log = logging.getLogger(__name__)


JOURNAL_SECONDS = 0.5
"""How many seconds of a growing reply a killed program may lose."""


class ReplyWriter:
    """Saves the events of one generation as the last step of a reply.

    Args:
        store: where the reply is stored.
        reply: the stored reply; what it has already is continued.
        settings: JSON of the sampling settings.
    """

    def __init__(self, store: Store, reply: Reply, settings: str) -> None:
        self._store = store
        self._settings = settings
        if reply.steps[-1].has_tool_results:
            reply = dataclasses.replace(reply, steps=(*reply.steps, ReplyStep()))
        self._reply = reply
        *self._earlier_steps, self._continued = reply.steps
        parts = self._continued.parts
        self._open: Text | Reasoning | None = None
        """The part that is growing, as it was at the start; `_text` is all of it."""
        if parts and isinstance(parts[-1], Text | Reasoning):
            self._open, parts = parts[-1], parts[:-1]
        self._meter = ThoughtMeter(self._open if isinstance(self._open, Reasoning) else None)
        self._closed_parts = parts
        self._text = self._open.text if self._open else ""
        self._withheld = ""
        self._usage = Usage()
        self._reason = StopReason.CANCELLED
        self._error: str | None = None
        self._saved_at = time.monotonic()
        self._started = False
        self._save_failed = False
        self._stored = False
        self.provenance: Provenance | None = None
        """Saved with the reply."""
        self.finished = False
        """Whether the engine finished by itself."""
        self.reply = reply
        """The reply as it was saved last, once it is closed."""

    def add(self, event: Delta | Finished) -> str | None:
        """Add an event; returns a message for the user if saving fails.

        The first token is not delayed by a write.
        """
        self._usage = event.usage
        if isinstance(event, Finished):
            self._withheld, self.finished = "", True
            is_corrected = self._meter.end(event.usage)
            self._close_part(*event.tool_calls)
            if is_corrected:
                self._correct_thought()
            self._reason = event.stop_reason.if_answered(self._has_answer())
            return self._save(self._finish) or self._save_provenance()
        if event.text or event.withheld:
            self._open_part(event.part)
        self._meter.add(event.text + event.withheld, event.part, event.usage)
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
            self._save(lambda: journal(self._reply.id, self._steps(None, Usage())))
            or self._save_provenance()
        )

    def fail(self, error: Exception) -> None:
        """Note the error that ended the reply."""
        filtered = isinstance(error, ContentFiltered)
        self._reason = StopReason.CONTENT_FILTER if filtered else StopReason.ERROR
        self._error = str(error)

    def close(self) -> None:
        """Save the reply as it is, unless that has been done already."""
        if not self._stored:
            self._save(self._finish)
        self._save_provenance()

    def _open_part(self, kind: StreamedPart) -> None:
        if self._open is None or self._open.type != kind:
            self._withheld = ""
            self._close_part()
            self._open = Reasoning("") if kind == "reasoning" else Text("")

    def _close_part(self, *following: ToolCall) -> None:
        """Close the growing part and add whole ones."""
        self._closed_parts = (*self._parts(), *following)
        self._open, self._text = None, ""

    def _correct_thought(self) -> None:
        """Give the newest thought the tokens that were counted at the end."""
        parts = list(self._closed_parts)
        for index in reversed(range(len(parts))):
            if isinstance(part := parts[index], Reasoning):
                parts[index] = self._meter.thought(part.text)
                break
        self._closed_parts = tuple(parts)

    def _parts(self) -> tuple[Part, ...]:
        text = self._text + self._withheld
        if self._open is None or not text:
            return self._closed_parts
        is_thought = isinstance(self._open, Reasoning)
        return (*self._closed_parts, self._meter.thought(text) if is_thought else Text(text))

    def _has_answer(self) -> bool:
        """Whether any step has text, or this one called tools."""
        called = any(isinstance(part, ToolCall) for part in self._parts())
        steps = self._steps(None, Usage())
        return called or any(step.text.strip() for step in steps)

    def _steps(self, reason: StopReason | None, usage: Usage) -> tuple[ReplyStep, ...]:
        return (*self._earlier_steps, ReplyStep(self._parts(), reason, usage))

    def _finish(self) -> None:
        reply, before = self._reply, self._continued
        if before.stop_reason and not self.finished and self._parts() == before.parts:
            # nothing was added, so the reply stays as it was
            steps, error, settings = reply.steps, reply.error, reply.settings
            self.provenance = None
        else:
            error, settings = self._error, self._settings
            usage = dataclasses.replace(
                self._usage,
                completion_tokens=before.usage.completion_tokens + self._usage.completion_tokens,
                decode_seconds=before.usage.decode_seconds + self._usage.decode_seconds,
                reasoning_tokens=before.usage.reasoning_tokens + self._usage.reasoning_tokens,
            )
            steps = self._steps(self._reason, usage)
        self.reply = dataclasses.replace(reply, steps=steps)
        self._store.finish_reply(reply.id, steps=steps, settings=settings, error=error)
        self._stored = True

    def _save_provenance(self) -> str | None:
        """Save the provenance; tried once, and only if the reply itself can be saved."""
        provenance = self.provenance
        if provenance is None or self._save_failed:
            return None
        self.provenance = None
        try:
            self._store.save_provenance(self._reply.id, provenance)
        except StoreError as error:
            log.error("provenance not saved: %s", error)
            return f"The provenance of this reply was not saved, so it cannot be replayed. {error}"
        return None

    def _save(self, write: Callable[[], object]) -> str | None:
        """Write; a failure is reported once, and the reply continues unsaved."""
        try:
            write()
        except StoreError as error:
            log.error("reply not saved: %s", error)
            first, self._save_failed = not self._save_failed, True
            return f"The reply is not being saved. {error}" if first else None
        self._save_failed = False
        return None
