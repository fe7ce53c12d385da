"""Generated word problems with their solutions, for `benchmarks.methods`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

NAMES = {
    "train": ("Ann", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry"),
    "test": ("Ida", "Jonas", "Karin", "Liam", "Mira", "Noah", "Olga", "Peter"),
}
THINGS = {
    "train": ("apples", "books", "pencils", "stamps", "cards", "coins"),
    "test": ("pears", "shells", "buttons", "marbles", "stickers", "nuts"),
}
"""Words of the training problems; those of the tests are others."""


@dataclass(frozen=True)
class Problem:
    """A word problem."""

    question: str
    steps: tuple[str, ...]
    """Its calculations, in order."""
    expression: str
    """All of them in one, as Python."""
    answer: int


def _bags(draw: random.Random, name: str, things: str) -> Problem:
    bags, each = draw.randint(3, 9), draw.randint(4, 15)
    total = bags * each
    gone = draw.randint(2, total - 1)
    return Problem(
        f"{name} has {bags} bags with {each} {things} each and gives away {gone}. "
        f"How many {things} are left?",
        (f"{bags} * {each} = {total}", f"{total} - {gone} = {total - gone}"),
        f"{bags} * {each} - {gone}",
        total - gone,
    )


def _wage(draw: random.Random, name: str, things: str) -> Problem:
    wage, hours = draw.randint(6, 19), draw.randint(3, 9)
    total = wage * hours
    spent = draw.randint(5, total - 1)
    return Problem(
        f"{name} earns {wage} dollars an hour, works for {hours} hours and then spends {spent} "
        f"dollars on {things}. How many dollars remain?",
        (f"{wage} * {hours} = {total}", f"{total} - {spent} = {total - spent}"),
        f"{wage} * {hours} - {spent}",
        total - spent,
    )


def _bus(draw: random.Random, name: str, things: str) -> Problem:
    start, off, on = draw.randint(20, 60), draw.randint(3, 15), draw.randint(3, 25)
    after = start - off
    return Problem(
        f"{name} sits in a bus with {start} people. At a stop {off} people get off and {on} get "
        "on. How many people are in the bus now?",
        (f"{start} - {off} = {after}", f"{after} + {on} = {after + on}"),
        f"{start} - {off} + {on}",
        after + on,
    )


def _shop(draw: random.Random, name: str, things: str) -> Problem:
    count, price = draw.randint(3, 9), draw.randint(2, 12)
    other, cost = draw.randint(2, 9), draw.randint(2, 12)
    first, second = count * price, other * cost
    return Problem(
        f"{name} buys {count} {things} for {price} dollars each and {other} hats for {cost} "
        "dollars each. How many dollars does it cost altogether?",
        (
            f"{count} * {price} = {first}",
            f"{other} * {cost} = {second}",
            f"{first} + {second} = {first + second}",
        ),
        f"{count} * {price} + {other} * {cost}",
        first + second,
    )


def _fence(draw: random.Random, name: str, things: str) -> Problem:
    length, width = draw.randint(5, 40), draw.randint(4, 30)
    half = length + width
    return Problem(
        f"{name}'s garden is {length} meters long and {width} meters wide. How many meters of "
        "fence go around it?",
        (f"{length} + {width} = {half}", f"2 * {half} = {2 * half}"),
        f"2 * ({length} + {width})",
        2 * half,
    )


def _share(draw: random.Random, name: str, things: str) -> Problem:
    people, each = draw.randint(3, 9), draw.randint(5, 14)
    total, eaten = people * each, draw.randint(1, 4)
    return Problem(
        f"{name} divides {total} {things} equally among {people} children. Each child loses "
        f"{eaten} of them. How many {things} does each child have then?",
        (f"{total} / {people} = {each}", f"{each} - {eaten} = {each - eaten}"),
        f"{total} // {people} - {eaten}",
        each - eaten,
    )


_KINDS: tuple[Callable[[random.Random, str, str], Problem], ...] = (
    _bags, _wage, _bus, _shop, _fence, _share,
)  # fmt: skip

KINDS = len(_KINDS)
"""Number of kinds of problems, which take turns."""


def problems(words: str, seed: int) -> Iterator[Problem]:
    """Yield different problems without end, of all kinds in turn.

    Args:
        words: `train` or `test`, which have no names, things or questions in common.
        seed: of the numbers.
    """
    draw = random.Random(f"{words} {seed}")  # noqa: S311 - not for secrets
    seen: set[str] = set()
    while True:
        for kind in _KINDS:
            problem = kind(draw, draw.choice(NAMES[words]), draw.choice(THINGS[words]))
            if problem.question not in seen:
                seen.add(problem.question)
                yield problem
