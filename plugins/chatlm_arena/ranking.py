"""The order of several answers, as a person writes it."""

from __future__ import annotations

import re
from itertools import pairwise

from chatlm import UsageError

MAX_RANKED = 9
"""Answers that can be ranked at once: one digit for each."""


def parse_order(text: str, count: int) -> list[int]:
    """Return the place of each answer from an order such as `2 > 1 = 3`.

    Without signs (`2 1 3` or `213`) each answer is better than the next.

    Args:
        text: numbers of the answers from 1, the best first.
        count: number of answers, up to `MAX_RANKED`.

    Raises:
        UsageError: an answer is missing, named twice or unknown.
    """
    compact = re.sub(r"[\s,]+", "", text)
    example = ">".join(map(str, range(count, 0, -1)))
    hint = f"Name each answer once, the best first, = for equals: {example}"
    if not re.fullmatch(r"\d(?:[>=]?\d)*", compact):
        raise UsageError("This is not an order of the answers.", hint=hint)
    places: dict[int, int] = {}
    place = 1
    for sign, digit in re.findall(r"([>=]?)(\d)", compact):
        if places and sign != "=":
            place = len(places) + 1
        number = int(digit)
        if not 1 <= number <= count or number in places:
            problem = "is named twice" if number in places else "does not exist"
            raise UsageError(f"Answer {number} {problem}.", hint=hint)
        places[number] = place
    if len(places) < count:
        missing = ", ".join(str(number) for number in range(1, count + 1) if number not in places)
        raise UsageError(f"The order lacks {missing}.", hint=hint)
    return [places[number] for number in range(1, count + 1)]


def describe_places(places: list[int], names: list[str]) -> str:
    """Describe an order by names, such as `warm > cold = hot`."""
    ordered = sorted(zip(places, names, strict=True), key=lambda pair: pair[0])
    text = ordered[0][1] if ordered else ""
    for (before, _), (place, name) in pairwise(ordered):
        text += f" {'=' if place == before else '>'} {name}"
    return text
