"""Votes as arrays, and tallies of votes by pair and result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class Verdict(StrEnum):
    """A judge's decision on a match."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    """Counts as a tie."""

    @property
    def mirrored(self) -> Verdict:
        """The same verdict with the sides swapped."""
        return _MIRRORED.get(self, self)


_MIRRORED = {Verdict.LEFT: Verdict.RIGHT, Verdict.RIGHT: Verdict.LEFT}

LEFT_SCORES: Mapping[Verdict, float] = {
    Verdict.LEFT: 1.0,
    Verdict.RIGHT: 0.0,
    Verdict.TIE: 0.5,
    Verdict.BOTH_BAD: 0.5,
}
"""Score of the left side; the right side's is 1 minus it."""


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes as arrays, oldest first."""

    names: tuple[str, ...]
    """Names of the contestants, including those without votes."""
    left: IntArray
    """Shape (votes,): indices into `names`."""
    right: IntArray
    """Shape (votes,): indices into `names`."""
    score: FloatArray
    """Shape (votes,): the left side's scores, 1, 0.5 or 0."""

    def __len__(self) -> int:
        return len(self.left)


def votes_from_rows(rows: Iterable[tuple[str, str, Verdict]], names: Iterable[str] = ()) -> Votes:
    """Create votes from rows.

    Args:
        rows: left name, right name and verdict, oldest first.
        names: contestants to include even without votes; others are appended.
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
    """Return only the votes between some of the contestants.

    Args:
        votes: all votes.
        names: the contestants to keep, in the order of the result's `names`.
    """
    old_index = np.array([votes.names.index(name) for name in names], dtype=np.int64)
    mask = np.isin(votes.left, old_index) & np.isin(votes.right, old_index)
    new_index = np.zeros(len(votes.names), dtype=np.int64)
    new_index[old_index] = np.arange(len(old_index))
    return Votes(
        names=tuple(names),
        left=new_index[votes.left[mask]],
        right=new_index[votes.right[mask]],
        score=votes.score[mask],
    )


@dataclass(frozen=True, eq=False)
class Tally:
    """Vote counts by pair and result, regardless of sides; one cell per combination that occurs."""

    one: IntArray
    """Shape (cells,): indices of contestants."""
    other: IntArray
    """Shape (cells,): indices of their opponents, always greater than `one`."""
    score: FloatArray
    """Shape (cells,): scores of `one`, 1, 0.5 or 0."""
    count: FloatArray
    """Shape (cells,): numbers of votes, above 0."""
    num_contestants: int

    @property
    def total(self) -> int:
        """Number of votes."""
        return int(self.count.sum())


def tally_votes(votes: Votes) -> Tally:
    """Count the votes by pair and result; votes of a contestant against itself are ignored."""
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
    """Return the wins of the row against the column, a tie as half a win.

    Shape (contestants, contestants).
    """
    matrix = np.zeros((tally.num_contestants, tally.num_contestants))
    np.add.at(matrix, (tally.one, tally.other), tally.count * tally.score)
    np.add.at(matrix, (tally.other, tally.one), tally.count * (1 - tally.score))
    return matrix


def games_played(tally: Tally) -> FloatArray:
    """Return the number of votes of each contestant, shape (contestants,)."""
    won = win_matrix(tally)
    out: FloatArray = (won + won.T).sum(axis=1)
    return out
