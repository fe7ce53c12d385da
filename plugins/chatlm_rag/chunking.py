"""Cuts a document into passages at its own joints, none longer than the embedder reads.

It does not know where the document came from. A passage never reaches out of its section, and its
text is exactly `document.text[start:end]`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm import UsageError
from chatlm_rag.passages import Piece
from chatlm_rag.records import record

if TYPE_CHECKING:
    from chatlm_rag.sources.document import Document, Section

_LONGEST_TOKEN = 8
"""Characters a token may stand for on average; no passage of one endless word has more."""

_AT_ONCE = 50_000
"""Characters that are cut at once, those of a long chapter: where a text has no joints the time
grows with the square of them."""

_SLACK = 1.1
"""How much longer than the average part one may be that ends at a joint of the text."""


@dataclass(frozen=True)
class Chunking:
    """How long passages are, in the embedder's tokens."""

    tokens: int = 200
    """At most. The default leaves room for the title in the 256 that all-minilm-l6-v2 reads."""
    overlap: int = 40
    """At most so many tokens of a passage are repeated in the next one."""

    def __post_init__(self) -> None:
        if not 16 <= self.tokens <= 8000:
            raise UsageError("A passage may have 16 to 8000 tokens.")
        if not 0 <= self.overlap <= self.tokens // 2:
            raise UsageError("The overlap may be 0 to half of a passage's tokens.")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "tokens": self.tokens,
            "overlap": self.overlap,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Chunking:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return record(
            cls,
            tokens=values["tokens"],
            overlap=values["overlap"],
        )


class Chunker:
    """Cuts documents.

    Args:
        tokenizer: the embedder's `tokenizer.json`.
        chunking: how long passages are.
    """

    def __init__(self, tokenizer: Path, chunking: Chunking) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._chunking = chunking
        self._most_letters = chunking.tokens * _LONGEST_TOKEN

    def pieces(self, document: Document, first: int) -> Iterator[Piece]:
        """The passages of a document, in its order; those without a letter or digit are left out.

        Args:
            document: to cut.
            first: the id of the first one.
        """
        number = first
        for section in document.sections:
            for start, end in self._all_spans(document, section):
                text = document.text[start:end]
                if any(map(str.isalnum, text)):
                    line = document.line_at(start)
                    yield Piece(
                        number, text, document.source, section.place, start, end,
                        section.title, line,
                    )  # fmt: skip
                    number += 1

    def _all_spans(self, document: Document, section: Section) -> Iterator[tuple[int, int]]:
        for start, end in _stretches(document.text, section.start, section.end):
            begins = self._token_begins(document.text, start, end)
            yield from self._spans(document, start, end, begins)

    def _token_begins(self, text: str, start: int, end: int) -> list[int]:
        """Where each token of a part of the text begins."""
        encoding = self._tokenizer.encode(text[start:end], add_special_tokens=False)
        return [start + begin for begin, _ in encoding.offsets]

    def _spans(
        self, document: Document, start: int, end: int, begins: list[int]
    ) -> Iterator[tuple[int, int]]:
        """The span where it is short enough, else its parts of about the same length."""
        text = document.text[start:end]
        tokens = bisect_left(begins, end) - bisect_left(begins, start)
        full = max(tokens / self._chunking.tokens, len(text) / self._most_letters)
        if full <= 1:
            start += len(text) - len(text.lstrip())
            yield start, start + len(text.strip())
            return
        repeated = self._chunking.overlap / self._chunking.tokens
        parts = max(ceil((full * _SLACK - repeated) / (1 - repeated)), 2)
        letters = ceil(len(text) * _SLACK / (parts * (1 - repeated) + repeated))
        overlap = int(letters * repeated)
        from semantic_text_splitter import MarkdownSplitter, TextSplitter

        splitter = MarkdownSplitter if document.markdown else TextSplitter
        for begin, chunk in splitter(letters, overlap).chunk_indices(text):
            yield from self._spans(document, start + begin, start + begin + len(chunk), begins)


def _stretches(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A part of a text in stretches that can be cut at once, by lines where it has them."""
    while end - start > _AT_ONCE:
        behind = text.rfind("\n", start, start + _AT_ONCE) + 1 or start + _AT_ONCE
        yield start, behind
        start = behind
    yield start, end
