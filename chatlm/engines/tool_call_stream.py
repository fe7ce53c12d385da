"""Tool calls while they are written, in pieces.

A call is a call only as a whole, except where its grammar leaves nothing else to come: then its
name, and what its arguments have so far, are certain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence

from chatlm.engines.reply_parser import OpenCall
from chatlm.engines.tool_call_syntax import WrittenCall, without_surrogates
from chatlm.types.events import ToolCallDelta


class ToolCallStream:
    """Returns what became certain of the calls of one reply, token by token.

    The arguments of each call are joined to the text of `WrittenCall.arguments`.

    Args:
        head: what precedes the arguments of a call, see `ToolCallFormat.head`; None where they are
            no JSON, so that each call comes whole.
        new_id: `(number of the call, from 0) -> id`.
    """

    def __init__(self, head: re.Pattern[str] | None, new_id: Callable[[int], str]) -> None:
        self._head = head
        self._new_id = new_id
        self.ids: list[str] = []
        """Of the calls so far."""
        self._sent: list[str] = []
        """The arguments of each so far."""
        self._complete = 0
        self._place = 0
        """Characters of the open block that were read."""
        self._arguments: JsonSpelling | None = None
        """Reads the arguments of the newest call, unless they are complete."""

    @property
    def is_within_call(self) -> bool:
        """Whether something of a call was returned that is not complete."""
        return len(self.ids) > self._complete

    def feed(
        self, open_call: OpenCall | None, calls: Sequence[WrittenCall], is_bound: bool
    ) -> Iterator[ToolCallDelta]:
        """Yield what became certain.

        Args:
            open_call: the block of calls that has begun.
            calls: those that are complete.
            is_bound: whether a grammar makes sure that the block becomes calls.
        """
        if len(calls) > self._complete:
            for number in range(self._complete, len(calls)):
                yield from self._complete_call(number, calls[number])
            self._complete = len(calls)
            self._place, self._arguments = 0, None
        if open_call is not None and is_bound and self._head is not None:
            yield from self._read(open_call.text, self._head)

    def _complete_call(self, number: int, call: WrittenCall) -> Iterator[ToolCallDelta]:
        if number == len(self.ids):
            yield self._begin(call.name)
        sent = self._sent[number]
        if call.arguments.startswith(sent) and len(call.arguments) > len(sent):
            yield self._more(number, call.arguments[len(sent) :])

    def _begin(self, name: str) -> ToolCallDelta:
        number = len(self.ids)
        self.ids.append(self._new_id(number))
        self._sent.append("")
        return ToolCallDelta(number, self.ids[number], name)

    def _more(self, number: int, text: str) -> ToolCallDelta:
        self._sent[number] += text
        return ToolCallDelta(number, arguments=text)

    def _read(self, text: str, head: re.Pattern[str]) -> Iterator[ToolCallDelta]:
        while True:
            if self._arguments is None:
                found = head.search(text, self._place)
                if found is None:
                    return
                written = next(group for group in found.groups() if group is not None)
                name = json.loads(written) if written.startswith('"') else written
                self._place, self._arguments = found.end(), JsonSpelling()
                yield self._begin(name)
            spelled, read = self._arguments.feed(text[self._place :])
            self._place += read
            if spelled:
                yield self._more(len(self.ids) - 1, spelled)
            if not self._arguments.is_complete:
                return
            self._arguments = None


class JsonSpelling:
    """Writes a JSON object as `json.dumps` does, while it is being read.

    It must be valid JSON; of equal keys all are kept.
    """

    def __init__(self) -> None:
        self.is_complete = False
        """Whether the object has ended."""
        self._depth = 0
        self._is_in_string = False
        self._pending = ""
        """Part of an escape, or of a number or word."""

    def feed(self, text: str) -> tuple[str, int]:
        """Return what is certain, and the number of characters that belong to the object."""
        out: list[str] = []
        for place, character in enumerate(text):
            step = self._within_string if self._is_in_string else self._between_strings
            out.append(step(character))
            if self.is_complete:
                return "".join(out), place + 1
        return "".join(out), len(text)

    def _within_string(self, character: str) -> str:
        if self._pending:
            return self._within_escape(character)
        if character == "\\":
            self._pending = character
            return ""
        self._is_in_string = character != '"'
        return character

    def _within_escape(self, character: str) -> str:
        """Take more of an escape, or of a pair of them; return it as it is spelled."""
        if character != "\\" and _HIGH_ESCAPE.fullmatch(self._pending):  # no pair
            self._pending = ""
            return "\ufffd" + self._within_string(character)
        self._pending += character
        if not _WHOLE_ESCAPE.fullmatch(self._pending):
            return ""
        if _HIGH_ESCAPE.fullmatch(self._pending):  # the other half may follow
            return ""
        value = json.loads(f'"{self._pending}"')
        self._pending = ""
        return without_surrogates(json.dumps(value, ensure_ascii=False)[1:-1])

    def _between_strings(self, character: str) -> str:
        if character not in ' \t\r\n{}[],:"':
            self._pending += character
            return ""
        before, self._pending = self._pending, ""
        if before:
            before = json.dumps(json.loads(before))
        if character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            self.is_complete = not self._depth
        elif character == '"':
            self._is_in_string = True
        elif character in ",:":
            character += " "
        return before + character.lstrip()


_WHOLE_ESCAPE = re.compile(r"(?:\\[^u]|\\u[0-9a-fA-F]{4})+")
_HIGH_ESCAPE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")
