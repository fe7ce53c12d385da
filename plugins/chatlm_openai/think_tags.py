"""Splitter of a reply's content into thoughts within `<think>` and the answer."""

from __future__ import annotations

from chatlm import ReasoningFormat, ReasoningParser, StreamedPart, StreamedText

THINK_TAGS = ReasoningFormat(("<think>",), ("</think>",))
"""How thoughts are marked by servers that do not separate them from the answer."""

NO_TAGS = ReasoningFormat((), ())
"""A thought or an answer without tags; the white space around them is dropped all the same."""


class ContentSplitter:
    """Finds a thought at the start of the content; how it is split into chunks makes no difference.

    Args:
        is_answer: whether all of it is the answer.
    """

    def __init__(self, *, is_answer: bool = False) -> None:
        self._parser = ReasoningParser(None) if is_answer else None
        """None while the start is not certain."""
        self._start = ""

    @property
    def part(self) -> StreamedPart:
        """The part that follows."""
        return self._parser.part if self._parser else "text"

    @property
    def withheld(self) -> str:
        """Text that is not certain yet."""
        return self._parser.withheld if self._parser else self._start

    def feed(self, text: str) -> list[StreamedText]:
        """Add content; return what is certain, in order."""
        if self._parser is not None:
            return self._parser.feed(text)
        self._start += text
        start = self._start.lstrip()
        if start.startswith(THINK_TAGS.starts):
            self._parser = ReasoningParser(THINK_TAGS)
            return self._parser.feed(self._start)
        if any(tag.startswith(start) for tag in THINK_TAGS.starts):
            return []
        return self.take_for_answer()

    def take_for_answer(self) -> list[StreamedText]:
        """Take all that follows for the answer; return what was withheld.

        White space before the answer is dropped, as after a thought in the content.
        """
        if self._parser is not None and self._parser.part == "text":
            return []
        pieces = self.flush()
        self._parser = ReasoningParser(None if pieces else NO_TAGS)
        return pieces

    def flush(self) -> list[StreamedText]:
        """Return the withheld text at the end of the content."""
        if self._parser is not None:
            return self._parser.flush()
        start, self._start = self._start, ""
        return [StreamedText("text", start)] if start else []
