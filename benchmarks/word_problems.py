"""Generated word problems with their solutions, for `benchmarks.methods`.

There are six kinds of calculation, each worded in several ways. Adapters train on other wordings,
names, things and numbers than those that are measured.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Words = Literal["train", "test"]

_NAMES: Mapping[Words, tuple[str, ...]] = {
    "train": ("Ann", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry"),
    "test": ("Ida", "Jonas", "Karin", "Liam", "Mira", "Noah", "Olga", "Peter"),
}
_THINGS: Mapping[Words, tuple[str, ...]] = {
    "train": ("apples", "books", "pencils", "stamps", "cards", "coins"),
    "test": ("pears", "shells", "buttons", "marbles", "stickers", "nuts"),
}


@dataclass(frozen=True)
class Problem:
    """A word problem."""

    kind: str
    question: str
    steps: tuple[str, ...]
    """Its calculations, in order."""
    expression: str
    """All of them in one, as Python."""
    answer: int


@dataclass(frozen=True)
class _Solved:
    """The numbers of a problem, and its solution."""

    numbers: Mapping[str, int]
    steps: tuple[str, ...]
    expression: str
    answer: int


def _rest_of_groups(draw: random.Random) -> _Solved:
    groups, each = draw.randint(3, 9), draw.randint(4, 15)
    total = groups * each
    gone = draw.randint(2, total - 1)
    return _Solved(
        {"groups": groups, "each": each, "gone": gone},
        (f"{groups} * {each} = {total}", f"{total} - {gone} = {total - gone}"),
        f"{groups} * {each} - {gone}",
        total - gone,
    )


def _wage(draw: random.Random) -> _Solved:
    wage, hours = draw.randint(6, 19), draw.randint(3, 9)
    total = wage * hours
    spent = draw.randint(5, total - 1)
    return _Solved(
        {"wage": wage, "hours": hours, "spent": spent},
        (f"{wage} * {hours} = {total}", f"{total} - {spent} = {total - spent}"),
        f"{wage} * {hours} - {spent}",
        total - spent,
    )


def _leave_and_enter(draw: random.Random) -> _Solved:
    start, left, came = draw.randint(20, 60), draw.randint(3, 15), draw.randint(3, 25)
    after = start - left
    return _Solved(
        {"start": start, "left": left, "came": came},
        (f"{start} - {left} = {after}", f"{after} + {came} = {after + came}"),
        f"{start} - {left} + {came}",
        after + came,
    )


def _purchase(draw: random.Random) -> _Solved:
    count, price = draw.randint(3, 9), draw.randint(2, 12)
    other, cost = draw.randint(2, 9), draw.randint(2, 12)
    first, second = count * price, other * cost
    return _Solved(
        {"count": count, "price": price, "other": other, "cost": cost},
        (
            f"{count} * {price} = {first}",
            f"{other} * {cost} = {second}",
            f"{first} + {second} = {first + second}",
        ),
        f"{count} * {price} + {other} * {cost}",
        first + second,
    )


def _edge(draw: random.Random) -> _Solved:
    length, width = draw.randint(5, 40), draw.randint(4, 30)
    half = length + width
    return _Solved(
        {"length": length, "width": width},
        (f"{length} + {width} = {half}", f"2 * {half} = {2 * half}"),
        f"2 * ({length} + {width})",
        2 * half,
    )


def _share(draw: random.Random) -> _Solved:
    people, each = draw.randint(3, 9), draw.randint(5, 14)
    total, lost = people * each, draw.randint(1, 4)
    return _Solved(
        {"total": total, "people": people, "lost": lost},
        (f"{total} / {people} = {each}", f"{each} - {lost} = {each - lost}"),
        f"{total} // {people} - {lost}",
        each - lost,
    )


KINDS: Mapping[str, Callable[[random.Random], _Solved]] = {
    "rest of groups": _rest_of_groups,
    "wage": _wage,
    "leave and enter": _leave_and_enter,
    "purchase": _purchase,
    "edge": _edge,
    "share": _share,
}
"""What draws the numbers of each kind of problem; the kinds take turns."""

_WORDINGS: Mapping[Words, Mapping[str, tuple[str, ...]]] = {
    "train": {
        "rest of groups": (
            "{name} has {groups} bags with {each} {things} each and gives away {gone}. "
            "How many {things} are left?",
            "There are {each} {things} in every box, and {name} owns {groups} boxes. "
            "{gone} {things} get lost. How many remain?",
            "{name} fills {groups} baskets with {each} {things} per basket, then sells {gone} of "
            "them. How many {things} does {name} still have?",
        ),
        "wage": (
            "{name} earns {wage} dollars an hour, works for {hours} hours and then spends {spent} "
            "dollars on {things}. How many dollars remain?",
            "For each hour of work {name} gets {wage} euros. After {hours} hours {name} buys "
            "{things} for {spent} euros. How much money is left?",
            "{name} works {hours} hours at {wage} dollars per hour and pays {spent} dollars for "
            "{things}. How many dollars does {name} keep?",
        ),
        "leave and enter": (
            "{name} sits in a bus with {start} people. At a stop {left} people get off and {came} "
            "get on. How many people are in the bus now?",
            "A train carries {start} passengers, among them {name}. {left} leave it and {came} "
            "enter. How many passengers are there then?",
            "{start} guests are at {name}'s party. {left} go home, then {came} more arrive. "
            "How many guests are there now?",
        ),
        "purchase": (
            "{name} buys {count} {things} for {price} dollars each and {other} hats for {cost} "
            "dollars each. How many dollars does it cost altogether?",
            "{name} orders {count} {things} at {price} euros apiece and {other} lamps at {cost} "
            "euros apiece. What is the total price?",
            "{count} {things} cost {price} dollars each, and {other} pens cost {cost} dollars "
            "each. How much does {name} pay for all of them?",
        ),
        "edge": (
            "{name}'s garden is {length} meters long and {width} meters wide. How many meters of "
            "fence go around it?",
            "A field of {name}'s measures {length} meters by {width} meters. How long is the way "
            "around it in meters?",
            "{name} frames a picture that is {length} inches wide and {width} inches high. "
            "How many inches of frame are needed?",
        ),
        "share": (
            "{name} divides {total} {things} equally among {people} children. Each child loses "
            "{lost} of them. How many {things} does each child have then?",
            "{name} puts {total} {things} into {people} equal groups and removes {lost} from each. "
            "How many {things} stay in each group?",
            "{people} friends split {total} {things} evenly. Then {name} takes {lost} from every "
            "friend. How many does each friend keep?",
        ),
    },
    "test": {
        "rest of groups": (
            "{name} packs {groups} crates of {each} {things}. Then {gone} {things} are taken out. "
            "How many stay in the crates?",
            "On a shelf stand {groups} jars, and each jar holds {each} {things}. {name} uses up "
            "{gone} {things}. What number of {things} is still there?",
        ),
        "wage": (
            "A job pays {wage} pounds every hour. {name} does it for {hours} hours, and {spent} "
            "pounds of that go on {things}. How many pounds are not spent?",
            "{name} babysits for {hours} hours, is paid {wage} dollars for every hour and uses "
            "{spent} dollars to buy {things}. How many dollars are in the purse then?",
        ),
        "leave and enter": (
            "{name} counts {start} birds in a tree. {left} fly away, and later {came} others land. "
            "How many birds sit there at the end?",
            "In {name}'s library {start} children are reading. {left} walk out and {came} come in. "
            "How many children are inside afterwards?",
        ),
        "purchase": (
            "{name} pays {price} pounds for every one of {count} {things} and {cost} pounds for "
            "every one of {other} cups. How many pounds is that in all?",
            "{name} takes {count} {things} for {price} dollars a piece, plus {other} plates for "
            "{cost} dollars a piece. What does the whole purchase come to?",
        ),
        "edge": (
            "{name} walks once around a rectangular yard, {length} meters in length and {width} "
            "meters in width. How many meters is the walk?",
            "A table of {name}'s has a length of {length} inches and a width of {width} inches. "
            "How many inches of tape go along its whole edge?",
        ),
        "share": (
            "A teacher gives {total} {things} in fair shares to {people} pupils, one of them "
            "{name}. Every pupil gives {lost} back. How many are left to {name}?",
            "{name} deals out {total} {things} to {people} players, the same number to all. "
            "Each player drops {lost}. How many is each player left with?",
        ),
    },
}


def problems(words: Words, seed: int) -> Iterator[Problem]:
    """Yield different problems without end, of all kinds in turn.

    Args:
        words: whose wordings, names and things; those of `train` and `test` have nothing in common.
        seed: of the numbers.
    """
    draw = random.Random(f"{words} {seed}")  # noqa: S311 - not for secrets
    seen: set[str] = set()
    while True:
        for kind, solve in KINDS.items():
            solved = solve(draw)
            question = draw.choice(_WORDINGS[words][kind]).format(
                name=draw.choice(_NAMES[words]),
                things=draw.choice(_THINGS[words]),
                **solved.numbers,
            )
            if question not in seen:
                seen.add(question)
                yield Problem(kind, question, solved.steps, solved.expression, solved.answer)
