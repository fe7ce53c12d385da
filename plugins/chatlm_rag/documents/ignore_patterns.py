"""Match paths with patterns in `.gitignore` syntax, as git does, in linear time.

The libraries that do this translate each pattern to a regular expression that backtracks: one line
with seven stars and a file name of a hundred letters would keep them busy for years. Here a star
followed by fixed characters becomes an atomic group. It takes the first place where they match and
is never tried again, which finds a match whenever there is one. Unlike git, a bracket expression
must not contain a slash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

_ANY_SEGMENT = re.compile(".*", re.DOTALL)


class InvalidPattern(ValueError):
    """A pattern that matches nothing, because of an unclosed bracket or a backslash at its end."""


@dataclass(frozen=True)
class _Pattern:
    segments: tuple[re.Pattern[str] | None, ...]
    """One for each part of the path; None stands for `**`, any number of parts."""
    ignores: bool
    """False if the pattern starts with `!`."""
    only_folders: bool
    any_depth: bool
    """Whether only the name is compared, not the path."""

    def matches(self, parts: list[str], *, is_folder: bool) -> bool:
        if self.only_folders and not is_folder:
            return False
        return self._matches_parts(parts[-1:] if self.any_depth else parts)

    def _matches_parts(self, parts: list[str]) -> bool:
        """Compare part by part; only the last `**` is ever extended, which is enough."""
        position = index = 0
        after_stars = retry = -1
        while index < len(parts):
            segment = self.segments[position] if position < len(self.segments) else _NEVER
            if segment is None:
                position += 1
                after_stars, retry = position, index
            elif segment.fullmatch(parts[index]):
                position, index = position + 1, index + 1
            elif after_stars >= 0:
                retry += 1
                position, index = after_stars, retry
            else:
                return False
        return position == len(self.segments)


class IgnorePatterns:
    """Patterns in `.gitignore` syntax; the last one that matches decides.

    Args:
        lines: the patterns; comments, blank lines and invalid patterns are skipped, as git does.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        patterns = []
        for line in lines:
            try:
                pattern = parse_pattern(line)
            except InvalidPattern:
                continue
            if pattern:
                patterns.append(pattern)
        self._patterns = tuple(reversed(patterns))

    def decide(self, path: str, *, is_folder: bool) -> bool | None:
        """Return whether a path is ignored; None if no pattern matches it.

        Folders above it are not considered.

        Args:
            path: relative to the folder of the patterns, with forward slashes.
            is_folder: whether it is a folder.
        """
        parts = path.split("/")
        for pattern in self._patterns:
            if pattern.matches(parts, is_folder=is_folder):
                return pattern.ignores
        return None

    def selects(self, path: str, *, is_folder: bool) -> bool:
        """Return whether a path is ignored, or else the nearest folder above it that any matches.

        The arguments are those of `decide`.
        """
        while path:
            decision = self.decide(path, is_folder=is_folder)
            if decision is not None:
                return decision
            path, is_folder = path.rpartition("/")[0], True
        return False


def parse_pattern(line: str) -> _Pattern | None:
    """Parse a line of a `.gitignore`; None for a comment or a blank line.

    Raises:
        InvalidPattern: it can match nothing.
    """
    text = _strip_trailing_spaces(line)
    if not text or text.startswith("#"):
        return None
    ignores = not text.startswith("!")
    text = text.removeprefix("!")
    only_folders = text.endswith("/")
    text = text.removesuffix("/")
    any_depth = "/" not in text
    parts = text.removeprefix("/").split("/")
    if parts == [""]:
        return None
    segments: list[re.Pattern[str] | None] = []
    for part in parts:
        if part == "**" and not any_depth:
            segments += [None] if segments[-1:] != [None] else []
        else:
            segments.append(_compile_segment(part))
    if segments[-1] is None:  # a/** matches what is in a, but not a itself
        segments.append(_ANY_SEGMENT)
    return _Pattern(tuple(segments), ignores, only_folders, any_depth)


def _strip_trailing_spaces(line: str) -> str:
    stripped = line.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if backslashes % 2 and len(stripped) < len(line) else stripped


def _compile_segment(glob: str) -> re.Pattern[str]:
    """Compile the pattern of one file or folder name."""
    pieces = [""]
    """Fixed characters between stars; each matches a fixed number of characters."""
    position = 0
    while position < len(glob):
        character = glob[position]
        position += 1
        if character == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append("")
        elif character == "?":
            pieces[-1] += "."
        elif character == "[":
            expression, position = _translate_bracket(glob, position)
            pieces[-1] += expression
        elif character == "\\":
            if position == len(glob):
                raise InvalidPattern(glob)
            pieces[-1] += re.escape(glob[position])
            position += 1
        else:
            pieces[-1] += re.escape(character)
    first, *middle = pieces
    if not middle:
        return re.compile(first, re.DOTALL)
    last = middle.pop()
    groups = "".join(f"(?>.*?{piece})" for piece in middle)
    return re.compile(f"{first}{groups}.*{last}", re.DOTALL)


def _translate_bracket(glob: str, position: int) -> tuple[str, int]:
    """Translate a bracket expression.

    Args:
        glob: the pattern of a name.
        position: after the opening bracket.

    Returns:
        A regular expression for one character, and the position after the closing bracket.
    """
    take = partial(_take_character, glob)
    negated = glob[position : position + 1] in ("!", "^")
    start = position = position + negated
    items = []
    while glob[position : position + 1] != "]" or position == start:
        if named := _CHARACTER_CLASS.match(glob, position):
            if named[1] not in _CHARACTER_CLASSES:
                raise InvalidPattern(glob)
            items.append(_CHARACTER_CLASSES[named[1]])
            position = named.end()
            continue
        low, position = take(position)
        high = low
        if glob[position : position + 1] == "-" and glob[position + 1 : position + 2] != "]":
            high, position = take(position + 1)
        # a range that runs backwards is only its first character
        last = f"-{re.escape(high)}" if low < high else ""
        items.append(f"{re.escape(low)}{last}")
    return f"[{'^' if negated else ''}{''.join(items)}]", position + 1


def _take_character(glob: str, position: int) -> tuple[str, int]:
    """Return the character at a position, which a backslash may escape, and the next position."""
    position += glob[position : position + 1] == "\\"
    if position >= len(glob):
        raise InvalidPattern(glob)
    return glob[position], position + 1


_NEVER = re.compile("(?!)")


_CHARACTER_CLASS = re.compile(r"\[:([a-z]*):\]")


_CHARACTER_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    "space": r" \t\n\r\f\v",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
