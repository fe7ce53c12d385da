"""Compare two texts word by word."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class DiffSegment:
    """One segment of a diff."""

    kind: Literal["same", "removed", "added"]
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "kind": self.kind,
            "text": self.text,
        }


_WORD_PATTERN = re.compile(r"\S+\s*|\s+")


def diff_words(before: str, after: str) -> list[DiffSegment]:
    """Diff two texts word by word.

    All segments but the added ones join to `before`, all but the removed ones to `after`.
    """
    old, new = _WORD_PATTERN.findall(before), _WORD_PATTERN.findall(after)
    head = _common_prefix_length(old, new)
    tail = _common_prefix_length(old[head:][::-1], new[head:][::-1])
    middle_old, middle_new = old[head : len(old) - tail], new[head : len(new) - tail]
    pieces = [DiffSegment("same", "".join(old[:head]))]
    matcher = difflib.SequenceMatcher(None, middle_old, middle_new)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            pieces.append(DiffSegment("same", "".join(middle_old[a:b])))
        else:
            pieces.append(DiffSegment("removed", "".join(middle_old[a:b])))
            pieces.append(DiffSegment("added", "".join(middle_new[c:d])))
    pieces.append(DiffSegment("same", "".join(old[len(old) - tail :])))
    return [piece for piece in pieces if piece.text]


def _common_prefix_length(left: list[str], right: list[str]) -> int:
    """Count the words that both start with."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
