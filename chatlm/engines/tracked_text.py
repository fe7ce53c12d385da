"""Strings that remember where each of their characters came from.

A chat template may trim a message, cut its thoughts out or build a control token from pieces. The
origins survive what templates do to strings, so afterwards it is known which characters the
template wrote and which a message brought in. An operation that is not tracked here yields a plain
`str`, whose origin counts as `UNKNOWN`: never the template's.
"""

# ruff: noqa: D102  # the methods are those of `str`

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

from chatlm.engines.template_limits import check_length

TEMPLATE = -1
"""Origin of characters written by the template itself."""


UNKNOWN = -2
"""Origin of characters of an input that is not tracked, such as a date or a tool's schema."""


_CONVERSION = re.compile(
    r"%(?:\((?P<name>[^)]*)\))?(?P<form>[#0\- +]*\d*(?:\.\d+)?[diouxXeEfFgGcrsa%])"
)
"""Of a format for `%`; one with a width from the values is not tracked."""


class TrackedText(str):
    """A string with an origin per character.

    Args:
        text: the characters.
        origin: of all of them, or one per character: `TEMPLATE`, `UNKNOWN`, or a number that the
            caller gave, such as the index of a message.
    """

    _origins: array[int]

    def __new__(cls, text: str, origin: int | array[int] = UNKNOWN) -> TrackedText:
        made = super().__new__(cls, text)
        made._origins = array("i", [origin]) * len(text) if isinstance(origin, int) else origin
        return made

    def __str__(self) -> str:
        return self  # `str(text)` in a compiled template keeps the origins

    def __add__(self, other: str) -> TrackedText:
        return TrackedText(str.__add__(self, other), self._origins + origins_of(other))

    def __radd__(self, other: str) -> TrackedText:
        return TrackedText(str.__add__(other, self), origins_of(other) + self._origins)

    def __mul__(self, times: SupportsIndex) -> TrackedText:
        return TrackedText(str.__mul__(self, times), self._origins * max(0, times.__index__()))

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        expected = str.__mod__(self, values)
        rest = iter(values if isinstance(values, tuple) else (values,))
        out: list[str] = []
        start = 0
        for match in _CONVERSION.finditer(self):
            out.append(self[start : match.start()])
            start = match.end()
            form = "%" + match["form"]
            if form == "%%":
                out.append(self[start - 1 : start])
                continue
            name = match["name"]
            value = next(rest, "") if name is None else values[name]
            is_text = form == "%s" and isinstance(value, str)
            out.append(value if is_text else str.__mod__(form, (value,)))
        text = concat([*out, self[start:]])
        return text if text == expected else expected

    def __getitem__(self, key: SupportsIndex | slice) -> TrackedText:
        text = str.__getitem__(self, key)
        if isinstance(key, slice):
            return TrackedText(text, self._origins[key])
        return TrackedText(text, self._origins[key.__index__()])

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def strip(self, chars: str | None = None, /) -> TrackedText:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> TrackedText:
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None, /) -> TrackedText:
        return self[: len(str.rstrip(self, chars))]

    def removeprefix(self, prefix: str, /) -> TrackedText:
        return self[len(self) - len(str.removeprefix(self, prefix)) :]

    def removesuffix(self, suffix: str, /) -> TrackedText:
        return self[: len(str.removesuffix(self, suffix))]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        return self._locate(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        return self._locate(str.rsplit(self, sep, maxsplit), sep)

    def _locate(self, pieces: list[str], separator: str | None) -> list[Any]:
        out: list[TrackedText] = []
        start = 0
        for piece in pieces:
            if separator is None:
                start = str.index(self, piece, start)
            out.append(self[start : start + len(piece)])
            start += len(piece) + len(separator or "")
        return out

    def splitlines(self, keepends: bool = False) -> list[Any]:
        out: list[TrackedText] = []
        start = 0
        for line, whole in zip(
            str.splitlines(self), str.splitlines(self, keepends=True), strict=True
        ):
            out.append(self[start : start + len(whole if keepends else line)])
            start += len(whole)
        return out

    def partition(self, sep: str, /) -> tuple[Any, Any, Any]:
        before, found, _ = str.partition(self, sep)
        end = len(before) + len(found)
        return self[: len(before)], self[len(before) : end], self[end:]

    def rpartition(self, sep: str, /) -> tuple[Any, Any, Any]:
        before, found, _ = str.rpartition(self, sep)
        end = len(before) + len(found)
        return self[: len(before)], self[len(before) : end], self[end:]

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> TrackedText:
        if not old:
            return TrackedText(str.replace(self, old, new, count))
        return TrackedText(new, origins_of(new)).join(self.split(old, count))

    def join(self, values: Iterable[str], /) -> TrackedText:
        out: list[str] = []
        for value in values:
            out += [self, value] if out else [value]
        return concat(out)

    def lower(self) -> TrackedText:
        return self._recased(str.lower(self))

    def upper(self) -> TrackedText:
        return self._recased(str.upper(self))

    def capitalize(self) -> TrackedText:
        return self._recased(str.capitalize(self))

    def title(self) -> TrackedText:
        return self._recased(str.title(self))

    def _recased(self, text: str) -> TrackedText:
        # a few letters change their number: "ß" becomes "SS"
        return TrackedText(text, self._origins if len(text) == len(self) else UNKNOWN)


def origins_of(text: str) -> array[int]:
    """Return the origin of each character."""
    if isinstance(text, TrackedText):
        return text._origins
    return array("i", [UNKNOWN]) * len(text)


def concat(texts: Iterable[str]) -> TrackedText:
    """Join strings with their origins."""
    pieces = list(texts)
    check_length(sum(map(len, pieces)))
    origins = array("i")
    for piece in pieces:
        origins += origins_of(piece)
    return TrackedText("".join(pieces), origins)


def own_ending(text: TrackedText) -> TrackedText:
    """Return the end of a text that the template alone wrote."""
    origins = origins_of(text)
    place = len(text)
    while place and origins[place - 1] == TEMPLATE:
        place -= 1
    return text[place:]
