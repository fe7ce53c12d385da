"""Fold what is long in a user's message: attached files and pastes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

BLOCK_LINES = 8
"""Lines of a code block, such as an attached file, that are shown folded."""

MESSAGE_LINES = 40
"""Lines of a message that are shown folded."""

LINE_CHARACTERS = 2000
"""Characters of a line that are shown folded."""

_FENCE = re.compile(r"`{3,}")


def fold_message(text: str) -> str:
    """Return a message with what is long left out; the message itself if nothing is.

    Each gap is a line that says how much is left out.
    """
    shown: list[str] = []
    for is_block, part in _parts(text.split("\n")):
        shown += _fold(part, BLOCK_LINES) if is_block else part
    return "\n".join(_shorten(line) for line in _fold(shown, MESSAGE_LINES))


def _fold(lines: Sequence[str], most: int) -> Sequence[str]:
    """Return the first lines and the last one, with a note in between, if there are many more."""
    left_out = len(lines) - most - 1
    if left_out < most // 2:
        return lines
    return [*lines[:most], f"… {left_out:,} more lines", lines[-1]]


def _shorten(line: str) -> str:
    left_out = len(line) - LINE_CHARACTERS
    if left_out < LINE_CHARACTERS // 4:
        return line
    return f"{line[:LINE_CHARACTERS]} … {left_out:,} more characters"


def _parts(lines: Sequence[str]) -> Iterator[tuple[bool, list[str]]]:
    """Yield the lines of each code block, with its fences, and those between blocks."""
    numbered = zip(_blocks(lines), lines, strict=True)
    for number, group in groupby(numbered, key=lambda pair: pair[0]):
        yield number > 0, [line for _, line in group]


def _blocks(lines: Sequence[str]) -> Iterator[int]:
    """Yield for each line the number of the block that it is in, from 1; 0 for none."""
    fence, number = "", 0
    for line in lines:
        ticks = found[0] if (found := _FENCE.match(line)) else ""
        if fence:
            yield number
            if len(ticks) >= len(fence) and not line.strip("` \t"):
                fence = ""
        elif ticks and "`" not in line[len(ticks) :]:
            fence, number = ticks, number + 1
            yield number
        else:
            yield 0
