"""Lay out a question and the statements of a passage as windows of tokens for the reader.

A window is `[CLS] question [SEP] title statements [SEP]`. The reader sees neighbouring statements
together, so that it knows whom "she" means, and scores each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENS = 160
"""Tokens of a window; the reader was trained on windows of this length."""

MAX_QUESTION_TOKENS, MAX_TITLE_TOKENS, MAX_STATEMENT_TOKENS = 48, 16, 92
"""The rest is cut off."""

MAX_REPEATED_TOKENS = 40
"""A window repeats the last statement of the window before it, unless it is longer."""


@dataclass(frozen=True)
class Window:
    """Tokens of a question and some statements."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    """Token types: 0 for the question, 1 for the statements."""
    spans: tuple[tuple[int, int, int], ...]
    """For each statement its number in the passage, and the positions of its tokens: first, and
    last plus one."""


class WindowLayout:
    """Lays out windows with the tokenizer of the encoder; thread-safe.

    Args:
        tokenizer: of a BERT encoder.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._cls, self._sep = (
            cast(int, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")
        )

    def windows(self, question: str, title: str, statements: Sequence[str]) -> list[Window]:
        """Return the windows of a passage; each statement is in at least one.

        Args:
            question: to answer.
            title: the headings above the passage; may be empty.
            statements: of the passage, in order.
        """
        encodings = self._tokenizer.encode_batch(
            [question, title, *statements], add_special_tokens=False
        )
        asked, titled, *parts = (encoding.ids for encoding in encodings)
        prefix = [self._cls, *asked[:MAX_QUESTION_TOKENS], self._sep]
        heading = titled[:MAX_TITLE_TOKENS]
        parts = [part[:MAX_STATEMENT_TOKENS] or [self._sep] for part in parts]
        space = MAX_TOKENS - len(prefix) - len(heading) - 1
        return [self._window(prefix, heading, parts, numbers) for numbers in _groups(parts, space)]

    def _window(
        self, prefix: list[int], heading: list[int], parts: list[list[int]], numbers: range
    ) -> Window:
        body = [token for number in numbers for token in parts[number]]
        first = len(prefix) + len(heading)
        ends = list(accumulate((len(parts[number]) for number in numbers), initial=first))
        ids = [*prefix, *heading, *body, self._sep]
        return Window(
            tuple(ids),
            tuple([0] * len(prefix) + [1] * (len(ids) - len(prefix))),
            tuple(zip(numbers, ends, ends[1:], strict=False)),
        )


def _groups(parts: Sequence[Sequence[int]], space: int) -> list[range]:
    """Return the numbers of the statements in each window."""
    groups: list[range] = []
    start = 0
    while start < len(parts):
        end, taken = start + 1, len(parts[start])
        while end < len(parts) and taken + len(parts[end]) <= space:
            taken += len(parts[end])
            end += 1
        groups.append(range(start, end))
        repeats = (
            end < len(parts)
            and end - start > 1
            and len(parts[end - 1]) <= MAX_REPEATED_TOKENS
            and len(parts[end - 1]) + len(parts[end]) <= space
        )
        start = end - 1 if repeats else end
    return groups
