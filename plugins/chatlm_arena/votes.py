"""Votes as arrays, and how often each two met; knows no rating, file or screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class Verdict(StrEnum):
    """Which of two replies is the better one."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    """Counts as a tie."""

    @property
    def mirrored(self) -> Verdict:
        """The same verdict with the sides changed."""
        return _MIRRORED.get(self, self)


_MIRRORED = {Verdict.LEFT: Verdict.RIGHT, Verdict.RIGHT: Verdict.LEFT}

LEFT_SCORES: Mapping[Verdict, float] = {
    Verdict.LEFT: 1.0,
    Verdict.RIGHT: 0.0,
    Verdict.TIE: 0.5,
    Verdict.BOTH_BAD: 0.5,
}
"""What the left side gets; the right side gets the rest of 1."""


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes in the order in which they were given."""

    names: tuple[str, ...]
    """Of the contestants; those without a vote too."""
    left: IntArray
    """Shape (votes,): indices into `names`."""
    right: IntArray
    score: FloatArray
    """What the left side got: 1, 0.5 or 0."""

    def __len__(self) -> int:
        return len(self.left)


def votes_from_rows(rows: Iterable[tuple[str, str, Verdict]], names: Iterable[str] = ()) -> Votes:
    """Votes from rows of left, right and verdict.

    Args:
        rows: in their order.
        names: contestants that are in whether or not they have a vote; others are added as they
            come.
    """
    index = {name: number for number, name in enumerate(dict.fromkeys(names))}
    left, right, score = [], [], []
    for one, other, verdict in rows:
        left.append(index.setdefault(one, len(index)))
        right.append(index.setdefault(other, len(index)))
        score.append(LEFT_SCORES[verdict])
    return Votes(
        tuple(index),
        np.array(left, dtype=np.int64),
        np.array(right, dtype=np.int64),
        np.array(score, dtype=np.float64),
    )


def votes_between(votes: Votes, names: Sequence[str]) -> Votes:
    """The votes between some of the contestants only.

    Args:
        votes: of all.
        names: of those that stay, in the order that the result's `names` have.
    """
    there = np.array([votes.names.index(name) for name in names], dtype=np.int64)
    kept = np.isin(votes.left, there) & np.isin(votes.right, there)
    place = np.zeros(len(votes.names), dtype=np.int64)
    place[there] = np.arange(len(there))
    return Votes(tuple(names), place[votes.left[kept]], place[votes.right[kept]], votes.score[kept])


@dataclass(frozen=True, eq=False)
class Tally:
    """How often each two met and with which result, whichever side they were on."""

    one: IntArray
    """Shape (cells,): indices of contestants."""
    other: IntArray
    """Always greater than `one`."""
    score: FloatArray
    """What `one` got: 1, 0.5 or 0; each (one, other, score) is there once."""
    count: FloatArray
    """Votes of each cell, above 0."""
    num_contestants: int
    """Contestants."""

    @property
    def total(self) -> int:
        """All votes."""
        return int(self.count.sum())


def tally_votes(votes: Votes) -> Tally:
    """Count the votes of each pair and result; a vote between a contestant and itself is none."""
    size = len(votes.names)
    swap = votes.left > votes.right
    one, other = np.where(swap, votes.right, votes.left), np.where(swap, votes.left, votes.right)
    halves = np.rint(2 * np.where(swap, 1 - votes.score, votes.score)).astype(np.int64)
    cells, count = np.unique(((one * size + other) * 3 + halves)[one != other], return_counts=True)
    return Tally(
        one=cells // 3 // size,
        other=cells // 3 % size,
        score=(cells % 3) / 2,
        count=count.astype(np.float64),
        num_contestants=size,
    )


def win_matrix(tally: Tally) -> FloatArray:
    """Shape (size, size): what the row got from the column, a tie as half a win."""
    matrix = np.zeros((tally.num_contestants, tally.num_contestants))
    np.add.at(matrix, (tally.one, tally.other), tally.count * tally.score)
    np.add.at(matrix, (tally.other, tally.one), tally.count * (1 - tally.score))
    return matrix


def games_played(tally: Tally) -> FloatArray:
    """Shape (size,): in how many votes each is."""
    won = win_matrix(tally)
    out: FloatArray = (won + won.T).sum(axis=1)
    return out
