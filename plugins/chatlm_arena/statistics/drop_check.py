"""Drop-k: the fewest votes whose removal changes first place.

Huang et al. (2025, "Dropping just a handful of preferences can change top LLM rankings") rank votes
by their influence on the gap between two contestants and refit without the most influential. Here
that gives an upper bound, and all smaller sets are tried, as far as `MAX_FITS` reaches: equal votes
are one case, so small boards are settled exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, islice

import numpy as np

from chatlm_arena.ratings import fit_strengths
from chatlm_arena.statistics.win_matrices import BoolArray, fit_win_matrices
from chatlm_arena.votes import FloatArray, IntArray, Tally

MAX_FITS = 50_000
"""Sets of votes that are tried at most; a few seconds."""

MAX_CHALLENGERS = 5
"""Contestants below the first for which removals are searched."""

_BATCH = 4096
"""Sets that are fitted at once."""

_MARGIN = 1e-5
"""Difference of log-strength from which one contestant counts as above another."""


@dataclass(frozen=True)
class DroppedVotes:
    """Equal votes to remove."""

    one: int
    """Index of a contestant."""
    other: int
    """Index of its opponent."""
    score: float
    """Score of `one`: 1, 0.5 or 0."""
    count: int


@dataclass(frozen=True)
class DropCheck:
    """The fewest votes whose removal changes first place."""

    first: int
    """Index of the contestant that is first now."""
    new_first: int | None
    """Index of the one that would be; None if no removal that was tried changes first place."""
    dropped: tuple[DroppedVotes, ...]
    """The votes to remove."""
    proven_below: int
    """No smaller set than this changes first place: all were tried."""
    total: int
    """Number of votes."""

    @property
    def count(self) -> int | None:
        """Number of votes to remove; None if none was found."""
        return sum(each.count for each in self.dropped) if self.new_first is not None else None

    @property
    def is_exact(self) -> bool:
        """Whether fewer are proven not to be enough."""
        return self.count is not None and self.count <= self.proven_below


def check_drops(tally: Tally, max_fits: int = MAX_FITS) -> DropCheck | None:
    """Find the fewest votes whose removal puts another contestant strictly first.

    Args:
        tally: the votes.
        max_fits: how many sets of votes may be tried to prove that fewer are not enough.

    Returns:
        None with fewer than two contestants or without a single first one.
    """
    if tally.num_contestants < 2 or not len(tally.count):
        return None
    logs = np.log(fit_strengths(tally))
    order = np.argsort(-logs, kind="stable")
    first = int(order[0])
    if logs[first] - logs[order[1]] <= _MARGIN:
        return None
    best = _by_influence(tally, first, order[1 : 1 + MAX_CHALLENGERS].tolist())
    limit = int(best.sum()) if best is not None else tally.total
    proven, tried = 1, 0
    while proven < limit:
        sets = _count_sets(tally, proven)
        if tried + sets > max_fits:
            break
        found = _try_all(tally, first, proven)
        tried += sets
        if found is not None:
            best = found
            break
        proven += 1
    if best is None:
        return DropCheck(first, None, (), proven, tally.total)
    after = np.log(fit_strengths(_without(tally, best)))
    dropped = tuple(
        DroppedVotes(
            int(tally.one[at]), int(tally.other[at]), float(tally.score[at]), int(best[at])
        )
        for at in np.flatnonzero(best)
    )
    return DropCheck(first, int(np.argmax(after)), dropped, proven, tally.total)


def _by_influence(tally: Tally, first: int, challengers: list[int]) -> IntArray | None:
    """Return the smallest removal found by influence, as counts by cell; None if there is none."""
    best: IntArray | None = None
    for challenger in challengers:
        for found in (
            _in_one_go(tally, first, challenger),
            _step_by_step(tally, first, challenger),
        ):
            if found is not None and (best is None or found.sum() < best.sum()):
                best = found
    return best


def _in_one_go(tally: Tally, first: int, challenger: int) -> IntArray | None:
    """Remove the most influential votes on one gap; as many as it takes, by bisection."""
    influence = _influence(tally, first, challenger)
    order = np.argsort(-influence, kind="stable")
    order = order[influence[order] > 0]
    helpful = int(tally.count[order].sum())

    def removal(number: int) -> IntArray:
        counts = np.zeros(len(tally.count), dtype=np.int64)
        left = number
        for at in order.tolist():
            counts[at] = min(left, int(tally.count[at]))
            left -= int(counts[at])
            if not left:
                break
        return counts

    def changes(number: int) -> bool:
        return bool(_changes_first(_fit_many(tally, removal(number)[np.newaxis]), first)[0])

    high = min(helpful, tally.total - 1)
    if high < 1 or not changes(high):
        return None
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if changes(middle) else (middle, high)
    return removal(high)


def _step_by_step(tally: Tally, first: int, challenger: int, most: int = 50) -> IntArray | None:
    """Remove one vote after the other, each time the one that narrows the gap most."""
    removed = np.zeros(len(tally.count), dtype=np.int64)
    for _ in range(min(most, tally.total - 1)):
        choices = np.flatnonzero(tally.count > removed)
        steps = np.repeat(removed[np.newaxis], len(choices), axis=0)
        steps[np.arange(len(choices)), choices] += 1
        if len(choices) > 300:  # too many to fit each: the most influential
            influence = _influence(_without(tally, removed, keep_cells=True), first, challenger)
            steps = steps[np.argsort(-influence[choices])[:30]]
        logs = _fit_many(tally, steps)
        gaps = logs[:, first] - logs[:, challenger]
        at = int(np.argmin(gaps))
        removed = steps[at]
        if _changes_first(logs[at : at + 1], first)[0]:
            return np.asarray(removed, dtype=np.int64)
    return None


def _influence(tally: Tally, first: int, challenger: int) -> FloatArray:
    """Return how much the gap shrinks per removed vote of each cell, to first order."""
    logs = np.log(fit_strengths(tally))
    chance = 1 / (1 + np.exp(logs[tally.other] - logs[tally.one]))
    weight = tally.count * chance * (1 - chance)
    size = tally.num_contestants
    laplacian = np.full((size, size), 1 / size)
    for one, other, sign in (
        (tally.one, tally.one, 1),
        (tally.other, tally.other, 1),
        (tally.one, tally.other, -1),
        (tally.other, tally.one, -1),
    ):
        np.add.at(laplacian, (one, other), sign * weight)
    gap = np.zeros(size)
    gap[first], gap[challenger] = 1.0, -1.0
    direction = np.linalg.lstsq(laplacian, gap, rcond=None)[0]
    out: FloatArray = (tally.score - chance) * (direction[tally.one] - direction[tally.other])
    return out


def _count_sets(tally: Tally, size: int) -> int:
    """Return the number of different sets of `size` votes, at most that without the counts."""
    return math.comb(len(tally.count) + size - 1, size)


def _try_all(tally: Tally, first: int, size: int) -> IntArray | None:
    """Return a removal of exactly `size` votes that changes first place, if there is one."""
    available = tally.count.astype(np.int64)
    cells = combinations_with_replacement(range(len(available)), size)
    for batch in _batches(cells):
        chosen = np.array(batch)
        removed = np.zeros((len(chosen), len(available)), dtype=np.int64)
        np.add.at(removed, (np.arange(len(chosen))[:, np.newaxis], chosen), 1)
        removed = removed[(removed <= available).all(axis=1)]
        removed = removed[removed.sum(axis=1) < tally.total]
        if not len(removed):
            continue
        changed = np.flatnonzero(_changes_first(_fit_many(tally, removed), first))
        if len(changed):
            return np.asarray(removed[changed[0]], dtype=np.int64)
    return None


def _batches(cells: Iterator[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    while batch := list(islice(cells, _BATCH)):
        yield batch


def _changes_first(logs: FloatArray, first: int) -> BoolArray:
    """Return whether another contestant is above the first one, shape (fits,)."""
    others = np.delete(logs, first, axis=1)
    return np.asarray(others.max(axis=1) > logs[:, first] + _MARGIN, dtype=np.bool_)


def _without(tally: Tally, removed: IntArray, *, keep_cells: bool = False) -> Tally:
    count = tally.count - removed
    kept = count > 0 if not keep_cells else np.ones(len(count), dtype=bool)
    return Tally(
        tally.one[kept], tally.other[kept], tally.score[kept], count[kept], tally.num_contestants
    )


def _fit_many(tally: Tally, removed: IntArray) -> FloatArray:
    """Return the log-strengths after each removal, as `fit_strengths` gives them.

    Args:
        tally: the votes.
        removed: shape (fits, cells), the number of votes removed from each cell.
    """
    size, fits = tally.num_contestants, len(removed)
    count = tally.count - removed
    won = np.zeros((fits, size, size))
    rows = np.arange(fits)[:, np.newaxis]
    np.add.at(won, (rows, tally.one, tally.other), count * tally.score)
    np.add.at(won, (rows, tally.other, tally.one), count * (1 - tally.score))
    return fit_win_matrices(won)
