"""Split a streamed reply into thoughts, tool calls and the answer.

Only a marker at the start of the reply begins a thought, unless the family marks every section by
control tokens; so an answer may be about `<think>`. A tool call is a call only as a whole:
anything else stays text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chatlm.engines.model_families import ModelFamily, ReasoningFormat, ToolCallFormat
from chatlm.engines.stopping import longest_partial_match
from chatlm.engines.tool_call_grammars import json_object
from chatlm.engines.tool_call_syntax import Malformed, Unfinished, WrittenCall, read_json
from chatlm.types.replies import StreamedPart

_NO_REASONING = ReasoningFormat((), ())
_NO_CALLS = ToolCallFormat((), (), read_json, json_object)


@dataclass(frozen=True)
class StreamedText:
    """Text of one part that became certain."""

    part: StreamedPart
    text: str
    dropped: int = 0
    """Number of characters before it that are markers, or white space around them."""


@dataclass(frozen=True)
class OpenCall:
    """A block of tool calls that has begun."""

    start: str
    """Its start marker; empty for a call without one."""
    text: str
    """What followed so far."""


class ReasoningParser:
    """A filter that splits a streamed text into thoughts and the answer.

    White space around a thought and before the answer is dropped. How the stream is split makes no
    difference.

    Args:
        form: the markers; None to take all for the answer.
        is_open: whether the prompt ends inside a thought.
        continues: whether the text continues a part that has text already.
        interrupting: texts that end a thought as well, and belong to what follows.
    """

    def __init__(
        self,
        form: ReasoningFormat | None,
        is_open: bool = False,
        continues: bool = False,
        interrupting: tuple[str, ...] = (),
    ) -> None:
        self._form = form or _NO_REASONING
        self._interrupting = interrupting
        self.part: StreamedPart = "reasoning" if is_open else "text"
        """The part that follows."""
        self._is_start = form is not None and not continues
        """Whether the part has no text yet."""
        self._may_start = self._is_start and not is_open
        self._pending = ""

    @property
    def is_at_marker(self) -> bool:
        """Whether the newest text belongs to a marker, so that it is neither thought nor answer.

        It may be a marker, the start of one or the white space after it.
        """
        after = max(len(self._form.before_end), len(self._form.after_end))
        return self._is_start and (bool(self._pending.strip()) or len(self._pending) <= after)

    @property
    def withheld(self) -> str:
        """Text held back because it may become a marker or end a thought.

        Without white space that is dropped whatever follows, so that a reply stopped here has none.
        """
        return self._pending.lstrip() if self._is_start else self._pending

    def feed(self, text: str) -> list[StreamedText]:
        """Add text; return what is certain, in order."""
        if self._form is _NO_REASONING:
            return [StreamedText("text", text)] if text else []
        self._pending += text
        out: list[StreamedText] = []
        dropped = 0
        while True:
            markers = self._expected()
            place, marker = _find_first(self._pending, markers)
            if marker is None:
                break
            dropped = self._emit(self._pending[:place], out, dropped, is_last=True)
            kept = marker in self._interrupting
            dropped += 0 if kept else len(marker)
            self._pending = self._pending[place + (0 if kept else len(marker)) :]
            self._pass(marker)
        keep = len(self._pending) - longest_partial_match(self._pending, markers)
        if self.part == "reasoning":
            keep = len(self._pending[:keep].rstrip())
        certain, self._pending = self._pending[:keep], self._pending[keep:]
        if not certain.strip() and self._is_start:
            self._pending = certain + self._pending
        else:
            dropped = self._emit(certain, out, dropped, is_last=False)
        if dropped:
            out.append(StreamedText(self.part, "", dropped))
        return out

    def flush(self) -> list[StreamedText]:
        """Return the withheld text at the end of the stream."""
        pending, self._pending = self._pending, ""
        out: list[StreamedText] = []
        if dropped := self._emit(pending, out, 0, is_last=True):
            out.append(StreamedText(self.part, "", dropped))
        return out

    def _expected(self) -> tuple[str, ...]:
        """Return the markers that count here."""
        if self.part == "reasoning":
            next_thought = self._form.starts if self._form.is_sectioned else ()
            return self._form.ends + self._interrupting + next_thought
        head = self._pending.lstrip()
        starts = tuple(
            start
            for start in self._form.starts
            if self._form.is_sectioned
            or (self._may_start and (head.startswith(start) or start.startswith(head)))
        )
        return starts + self._form.ignored

    def _emit(self, text: str, out: list[StreamedText], dropped: int, *, is_last: bool) -> int:
        """Add text to the output without the white space around it; return what was dropped."""
        shown = text
        if self._is_start:
            shown = shown.lstrip()
            dropped += len(text) - len(shown)
        after = 0
        if is_last and self.part == "reasoning":
            after = len(shown) - len(shown.rstrip())
            shown = shown.rstrip()
        if not shown:
            return dropped + after
        self._is_start = False
        self._may_start = False
        out.append(StreamedText(self.part, shown, dropped))
        return after

    def _pass(self, marker: str) -> None:
        self._is_start = True
        self._may_start = False
        self.part = "reasoning" if marker in self._form.starts else "text"


class ToolCallParser:
    """A filter that takes tool calls out of the streamed text of an answer.

    White space before a call and between calls is dropped. How the stream is split makes no
    difference.

    Args:
        form: how the model writes calls; None to take all for text.
        schemas: JSON schema of the parameters of each tool that was offered, by its name.
        continues: whether the text continues an answer.
    """

    def __init__(
        self,
        form: ToolCallFormat | None,
        schemas: Mapping[str, Mapping[str, Any]],
        continues: bool = False,
    ) -> None:
        self._form = form or _NO_CALLS
        self._schemas = schemas
        self._bare_start = "" if continues else self._form.bare_start
        self.calls: list[WrittenCall] = []
        """Those that are complete."""
        self._pending = ""
        self._is_inside = False
        """Whether `_pending` starts with a call."""
        self._start = ""
        """The marker at its start; empty for a call without one."""
        self._searched = 0
        """Characters of `_pending` whose end markers belong to a value."""
        self._taken = ""
        """The text of the calls so far."""

    @property
    def open_call(self) -> OpenCall | None:
        """The block of calls that has begun and not ended."""
        if not self._is_inside:
            return None
        return OpenCall(self._start, self._pending[len(self._start) :])

    @property
    def withheld(self) -> str:
        """Text held back, that of complete calls included: text if the reply ends here."""
        return self._taken + self._pending

    def feed(self, text: str) -> list[StreamedText]:
        """Add text; return what is certainly no call."""
        if self._form is _NO_CALLS:
            return [StreamedText("text", text)] if text else []
        self._pending += text
        out: list[StreamedText] = []
        while self._leave(out) if self._is_inside else self._enter(out):
            pass
        return out

    def flush(self, is_complete: bool) -> list[StreamedText]:
        """Return the withheld text at the end of the stream.

        Args:
            is_complete: whether the model ended its reply, which ends a call as well.
        """
        out: list[StreamedText] = []
        if self._is_inside and is_complete:
            self._read(len(self._pending), 0, out)
        is_white_space = self.calls and not self._pending.strip()
        self._emit("" if is_white_space else self._pending, out, len(self._pending))
        self._pending, self._is_inside = "", False
        return out

    def _enter(self, out: list[StreamedText]) -> bool:
        """Emit the text before the next call; return whether one begins."""
        starts = self._form.starts
        head = self._pending.lstrip()
        if self._bare_start and head.startswith(self._bare_start):
            place, start = len(self._pending) - len(head), ""
        else:
            place, marker = _find_first(self._pending, starts)
            start = marker or ""
            if marker is None:
                self._release(head, out)
                return False
        before = self._pending[:place]
        self._emit(before.rstrip(), out, len(before))
        self._pending, self._start, self._searched = self._pending[place:], start, 0
        self._is_inside = True
        return True

    def _release(self, head: str, out: list[StreamedText]) -> None:
        """Emit the text that cannot become part of a call."""
        if self._bare_start and (not head or self._bare_start.startswith(head)):
            return
        keep = len(self._pending) - longest_partial_match(self._pending, self._form.starts)
        keep = len(self._pending[:keep].rstrip())
        self._emit(self._pending[:keep], out, keep)
        self._pending = self._pending[keep:]

    def _leave(self, out: list[StreamedText]) -> bool:
        """Read the call that has begun; return whether its end was found."""
        begin = len(self._start)
        place, end = _find_first(self._pending, self._form.ends, max(begin, self._searched))
        if end is None:
            return False
        self._read(place, len(end), out)
        return True

    def _read(self, place: int, end_length: int, out: list[StreamedText]) -> None:
        """Take the call that ends at a place of `_pending`, or emit its text."""
        whole = self._pending[: place + end_length]
        is_bare = not self._start
        try:
            calls = self._form.read(self._pending[len(self._start) : place], self._schemas)
            if is_bare and not all(call.name in self._schemas for call in calls):
                raise Malformed("no tool of that name")
        except Unfinished:
            self._searched = len(whole)
            return
        except Malformed:
            self._bare_start = ""
            self._emit(whole, out, len(whole))
        else:
            self.calls += calls
            self._taken += whole
            self._emit("", out, len(whole))
        self._pending, self._is_inside = self._pending[len(whole) :], False

    def _emit(self, text: str, out: list[StreamedText], length: int) -> None:
        """Add a text to the output, the start of so many characters; the rest is dropped."""
        if text:
            self._bare_start = ""
            out.append(StreamedText("text", text))
        if dropped := length - len(text):
            out.append(StreamedText("text", "", dropped))


class ReplyParser:
    """A filter that splits the streamed text of a reply by the formats of the model's family.

    Args:
        family: how the model marks thoughts and writes tool calls.
        schemas: JSON schema of the parameters of each tool that was offered, by its name; without
            tools there are no calls.
        is_open: whether the prompt ends inside a thought.
        continues: whether the text continues a part that has text already.
    """

    def __init__(
        self,
        family: ModelFamily,
        schemas: Mapping[str, Mapping[str, Any]],
        is_open: bool = False,
        continues: bool = False,
    ) -> None:
        form = family.tool_calls if schemas else None
        interrupting = form.starts if form is not None and form.interrupts_thoughts else ()
        self._thoughts = ReasoningParser(family.reasoning, is_open, continues, interrupting)
        self._tool_calls = ToolCallParser(form, schemas, continues)

    @property
    def part(self) -> StreamedPart:
        """The part that follows."""
        return self._thoughts.part

    @property
    def is_at_marker(self) -> bool:
        """Whether the newest text belongs to a marker, so that it counts as neither part."""
        return self._thoughts.is_at_marker

    @property
    def withheld(self) -> str:
        """Text held back because it may become a marker or part of a call."""
        return self._tool_calls.withheld + self._thoughts.withheld

    @property
    def calls(self) -> Sequence[WrittenCall]:
        """The tool calls that are complete."""
        return self._tool_calls.calls

    @property
    def open_call(self) -> OpenCall | None:
        """The block of calls that has begun and not ended."""
        return self._tool_calls.open_call

    def feed(self, text: str) -> list[StreamedText]:
        """Add text; return what is certain, in order."""
        return self._without_calls(self._thoughts.feed(text))

    def flush(self, is_complete: bool = True) -> list[StreamedText]:
        """Return the withheld text at the end of the stream.

        Args:
            is_complete: whether the model ended its reply itself.
        """
        out = self._without_calls(self._thoughts.flush())
        return out + self._tool_calls.flush(is_complete)

    def _without_calls(self, pieces: Iterable[StreamedText]) -> list[StreamedText]:
        out: list[StreamedText] = []
        for piece in pieces:
            if piece.part == "reasoning":
                out.append(piece)
                continue
            if piece.dropped:
                out.append(replace(piece, text=""))
            out += self._tool_calls.feed(piece.text)
        return out


def _find_first(text: str, markers: Iterable[str], start: int = 0) -> tuple[int, str | None]:
    """Return the place of the first marker, of those at one place the longest, or (-1, None)."""
    found = [
        (place, -len(marker), marker)
        for marker in markers
        if (place := text.find(marker, start)) >= 0
    ]
    if not found:
        return -1, None
    place, _, marker = min(found)
    return place, marker
