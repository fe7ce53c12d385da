"""What stands in the composer, as a value: a text, and the long pastes that are folded into it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from chatlm.text import visible

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Around a placeholder. Unicode keeps these two for a program's inner use and `clean` lets none
through, so nobody can type or paste a placeholder."""

FOLD_LINES = 12
FOLD_CHARACTERS = 1500
"""A paste with more than either is folded."""

_PLACEHOLDER = re.compile(f"{OPEN}pasted ([0-9]+): [^{OPEN}{CLOSE}\n]*{CLOSE}")
_FORGED = str.maketrans({OPEN: "\ufffd", CLOSE: "\ufffd"})
_DRAWN = str.maketrans({OPEN: "[", CLOSE: "]"})


def clean(text: str) -> str:
    """A text from outside, safe to draw and free of placeholders; what is seen is what is sent."""
    return visible(text).translate(_FORGED)


def drawn(text: str) -> str:
    """The text as it is shown, character by character: placeholders stand in brackets."""
    return text.translate(_DRAWN)


def is_long(text: str) -> bool:
    """Whether a pasted text is better folded."""
    return len(text) > FOLD_CHARACTERS or _lines(text) > FOLD_LINES


def placeholder(number: int, text: str) -> str:
    """What stands for a folded text, such as `[pasted 1: 120 lines]`."""
    lines = _lines(text)
    size = f"{lines:,} lines" if lines > 1 else f"{len(text):,} characters"
    return f"{OPEN}pasted {number}: {size}{CLOSE}"


def _lines(text: str) -> int:
    return text.removesuffix("\n").count("\n") + 1


def placeholders(text: str) -> Iterator[tuple[int, int, int]]:
    """`(start, end, number)` of each placeholder in the text."""
    for match in _PLACEHOLDER.finditer(text):
        yield match.start(), match.end(), int(match[1])


@dataclass(frozen=True)
class Draft:
    """A text with placeholders, and what they stand for."""

    text: str = ""
    pastes: Mapping[int, str] = field(default_factory=dict)
    """By the number in the placeholder."""

    @classmethod
    def of(cls, text: str, pastes: Mapping[int, str]) -> Draft:
        """A text with those of the pastes that stand in it."""
        numbers = {number for _, _, number in placeholders(text)}
        return cls(text, {n: paste for n, paste in pastes.items() if n in numbers})

    def unfolded(self) -> str:
        """The whole text."""

        def whole(match: re.Match[str]) -> str:
            return self.pastes.get(int(match[1]), drawn(match[0]))

        return _PLACEHOLDER.sub(whole, self.text)

    def __add__(self, other: Draft) -> Draft:
        """One behind the other; the other's pastes get the numbers that follow."""
        shift = max(self.pastes, default=0)
        moved = {number + shift: text for number, text in other.pastes.items()}

        def renumbered(match: re.Match[str]) -> str:
            number = int(match[1]) + shift
            return placeholder(number, moved[number]) if number in moved else match[0]

        text = self.text + _PLACEHOLDER.sub(renumbered, other.text)
        return Draft(text, {**self.pastes, **moved})

    def dump(self) -> str:
        """As a string to keep; empty for an empty draft."""
        if not self.text:
            return ""
        return json.dumps({"text": self.text, "pastes": self.pastes})

    @classmethod
    def load(cls, state: str) -> Draft:
        """Read back what `dump` made; anything else is a plain text."""
        try:
            return cls._read(json.loads(state))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls(clean(state))

    @classmethod
    def _read(cls, values: Mapping[str, object]) -> Draft:
        text, pastes = values["text"], values["pastes"]
        if len(values) != 2 or not isinstance(text, str) or not isinstance(pastes, dict):
            raise TypeError("not a draft")
        read = {int(number): clean(paste) for number, paste in pastes.items()}
        return cls(visible(text), read)
