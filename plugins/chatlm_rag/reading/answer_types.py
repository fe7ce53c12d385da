"""What kind of thing a question asks for, and whether a statement names one.

The cues are English; for other questions the kind is unknown, which counts neither way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

AnswerType = Literal["person", "time", "number", "place"]

_CUES: tuple[tuple[AnswerType, re.Pattern[str]], ...] = (
    (
        "time",
        re.compile(
            r"\b(when|(what|which) (\w+ )?(year|date|day|month|century|decade|time|hour)"
            r"|how (long ago|soon|recently))\b",
            re.IGNORECASE,
        ),
    ),
    (
        "number",
        re.compile(
            r"\b(how (many|much|long|old|far|tall|high|deep|big|large|fast|heavy|wide|often|hot"
            r"|cold)|what (is the )?(percent(age)?|number|size|price|cost|population|rent|fee"
            r"|temperature))\b",
            re.IGNORECASE,
        ),
    ),
    ("person", re.compile(r"\b(who|whom|whose)\b", re.IGNORECASE)),
    ("place", re.compile(r"\bwhere\b", re.IGNORECASE)),
)

_TIME = re.compile(
    r"\d|\b(january|february|march|april|may|june|july|august|september|october|november|december"
    r"|(mon|tues|wednes|thurs|fri|satur|sun)day|spring|summer|autumn|winter|morning|noon|evening"
    r"|night|midnight|century|today|tomorrow|yesterday|daily|weekly|monthly|yearly|annually"
    r"|(every|each|last|next|this) (day|week|month|year)|after|before|until|during|once|while)\b",
    re.IGNORECASE,
)

_NUMBER = re.compile(
    r"\d|\b(zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty"
    r"|fifty|sixty|seventy|eighty|ninety|hundreds?|thousands?|millions?|billions?|half|dozens?"
    r"|once|twice|several|few|many|most|all|none|no|both|quarter|third|pair|couple)\b",
    re.IGNORECASE,
)

_NAME = re.compile(r"(?<!^)\b[A-Z][\w’'-]+|\b(I|my|our|we|he|she|they|it)\b")

_PLACE = re.compile(
    r"\b(in|at|on|near|behind|under|above|below|between|from|to|inside|outside|beside|next to"
    r"|opposite|through|across|along|north|south|east|west)\b|[/\\]\w",
    re.IGNORECASE,
)

_WORD = re.compile(r"\w+")


def expected_type(question: str) -> AnswerType | None:
    """Return what a question asks for; None if that is unknown."""
    return next((kind for kind, cue in _CUES if cue.search(question)), None)


def type_evidence(question: str, statement: str) -> int:
    """Return 1 if a statement names what the question asks for, -1 if not, 0 if that is unknown.

    What the question itself names does not count.
    """
    kind = expected_type(question)
    if kind is None:
        return 0
    asked = {word.lower() for word in _WORD.findall(question)}
    finders: dict[AnswerType, Callable[[str], list[str]]] = {
        "time": lambda text: _found(_TIME, text),
        "number": lambda text: _found(_NUMBER, text),
        "person": lambda text: _found(_NAME, text),
        "place": lambda text: _found(_PLACE, text),
    }
    new = [word for word in finders[kind](statement) if word.lower() not in asked]
    return 1 if new else -1


def _found(pattern: re.Pattern[str], text: str) -> list[str]:
    """Return the whole words in which a pattern matches."""
    return [
        word[0]
        for match in pattern.finditer(text)
        if (word := _WORD.search(text, _word_start(text, match.start())))
    ]


def _word_start(text: str, at: int) -> int:
    while at and text[at - 1].isalnum():
        at -= 1
    return at
