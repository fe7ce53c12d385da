"""Simulate how well the arena's ratings recover known strengths, and the votes its pairing saves.

Run it: python -m benchmarks.arena
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from chatlm_arena.pairing import Pairing, choose_pair
from chatlm_arena.ratings import POINTS_PER_LOG_STRENGTH, estimate_strengths
from chatlm_arena.votes import FloatArray, IntArray, Votes, tally_votes

TIES = 0.2
"""Share of the weaker contestant's expected score that comes from ties; so the score stays that of
Bradley and Terry."""


def evenly(size: int, spread: float, seed: int) -> FloatArray:
    """Return evenly spaced log-strengths in random order.

    Args:
        size: contestants.
        spread: the standard deviation of the strengths, in rating points; their mean is 0.
        seed: of the order.
    """
    return _spread(np.random.default_rng(seed).permutation(size).astype(np.float64), spread)


def normally(size: int, spread: float, seed: int) -> FloatArray:
    """Return log-strengths from a normal distribution; see `evenly`."""
    return _spread(np.random.default_rng(seed).normal(size=size), spread)


def _spread(values: FloatArray, spread: float) -> FloatArray:
    strengths: FloatArray = (
        (values - values.mean()) / values.std() * spread / POINTS_PER_LOG_STRENGTH
    )
    return strengths


def vote(strengths: FloatArray, one: int, other: int, draw: np.random.Generator) -> float:
    """Return the score of `one` against `other` in one match."""
    left, right = np.array([one]), np.array([other])
    return float(_scores(strengths, left, right, draw)[0])


def random_votes(strengths: FloatArray, count: int, seed: int) -> Votes:
    """Votes of random pairs."""
    draw, size = np.random.default_rng(seed), len(strengths)
    left = draw.integers(0, size, count)
    right = (left + draw.integers(1, size, count)) % size
    score = _scores(strengths, left, right, draw)
    return Votes(tuple(map(str, range(size))), left, right, score)


def _scores(
    strengths: FloatArray, left: IntArray, right: IntArray, draw: np.random.Generator
) -> FloatArray:
    chance = 1 / (1 + np.exp(strengths[right] - strengths[left]))
    half_ties = TIES * np.minimum(chance, 1 - chance)
    drawn = draw.random(len(left))
    wins = drawn < chance - half_ties
    scores: FloatArray = np.where(wins, 1.0, np.where(drawn < chance + half_ties, 0.5, 0.0))
    return scores


@dataclass(frozen=True)
class Recovery:
    """Results of many simulations."""

    covered: float
    """Share of the 95 % intervals that contain the true strength."""
    ordered: float
    """Share of the simulations with exactly the true order."""
    correlation: float
    """Mean rank correlation (Spearman) of the ratings with the truth."""


def recovery(runs: int, votes: int, size: int = 8, spread: float = 200.0) -> Recovery:
    """Simulate arenas of random pairs and compare the ratings with the truth."""
    covered, ordered, correlations = [], [], []
    for run in range(runs):
        strengths = evenly(size, spread, run)
        found = estimate_strengths(tally_votes(random_votes(strengths, votes, run)), seed=run)
        true = 1500 + POINTS_PER_LOG_STRENGTH * strengths
        covered += ((found.rating_low <= true) & (true <= found.rating_high)).tolist()
        ranks = np.argsort(np.argsort(true)), np.argsort(np.argsort(found.rating))
        ordered.append(bool((ranks[0] == ranks[1]).all()))
        correlations.append(float(np.corrcoef(*ranks)[0, 1]))
    return Recovery(float(np.mean(covered)), float(np.mean(ordered)), float(np.mean(correlations)))


def widths(
    strengths: FloatArray, how: Pairing, seed: int, every: int
) -> Iterator[tuple[int, float]]:
    """After each `every` votes their number and the width of the widest interval."""
    draw, size = np.random.default_rng(seed), len(strengths)
    names = tuple(map(str, range(size)))
    left: list[int] = []
    right: list[int] = []
    score: list[float] = []
    while True:
        cells = (
            tally_votes(Votes(names, *(np.array(c) for c in (left, right, score))))
            if left
            else None
        )
        if cells is not None and len(left) % every == 0:
            found = estimate_strengths(cells, seed=seed)
            yield len(left), float((found.rating_high - found.rating_low).max())
        empty = Votes(names, np.array([], int), np.array([], int), np.array([]))
        one, other = choose_pair(cells or tally_votes(empty), how, draw)
        left.append(one)
        right.append(other)
        score.append(vote(strengths, one, other, draw))


def votes_needed(
    strengths: FloatArray, how: Pairing, width: float, seed: int, every: int = 20
) -> int:
    """Votes until no interval is wider than `width` rating points."""
    return next(n for n, widest in widths(strengths, how, seed, every) if widest <= width)


def saving(
    runs: int,
    size: int = 10,
    spread: float = 200.0,
    width: float = 150.0,
    spaced: Callable[[int, float, int], FloatArray] = normally,
) -> float:
    """Share of votes that informative pairs save over random ones, in all runs."""
    needed = {
        how: sum(votes_needed(spaced(size, spread, run), how, width, run) for run in range(runs))
        for how in (Pairing.RANDOM, Pairing.INFORMATIVE)
    }
    return 1 - needed[Pairing.INFORMATIVE] / needed[Pairing.RANDOM]


def most_to_save(strengths: FloatArray, steps: int = 2500) -> float:
    """About the part of the votes that the best choice of pairs would need less than random ones
    until the widest interval is as narrow: that of one who knows the strengths beforehand.

    Pairs get their part of the votes in proportion to what these take off the widest intervals,
    counted ever more strictly.
    """
    chance = 1 / (1 + np.exp(strengths - strengths[:, np.newaxis]))
    information, size = chance * (1 - chance), len(strengths)
    parts = np.ones((size, size)) - np.eye(size)
    widest = []
    for strictness in np.repeat((6, 12, 24, 48), steps):
        parts /= parts.sum()
        weight = parts * information
        laplacian = np.diag(weight.sum(axis=1)) - weight
        covariance = np.linalg.inv(laplacian + 1 / size) - 1 / size
        variance = np.diag(covariance)
        widest.append(variance.max())
        squares = (covariance * (variance / variance.max()) ** strictness) @ covariance
        each = np.diag(squares)
        gained = information * (each[:, np.newaxis] + each - 2 * squares)
        parts = np.maximum(parts * (gained / gained.max()) ** (1 / (strictness + 2)), 1e-9)
        np.fill_diagonal(parts, 0.0)
    return 1 - float(min(widest) / widest[0])


def million(votes: int = 1_000_000, size: int = 100) -> float:
    """Return the seconds from arrays of votes to ratings with intervals."""
    given = random_votes(normally(size, 200.0, 0), votes, 0)
    start = time.perf_counter()
    estimate_strengths(tally_votes(given))
    return time.perf_counter() - start


def main() -> None:
    """Run all simulations and print the results."""
    found = recovery(200, 2000)
    print(f"8 contestants, 2,000 votes, 200 runs: intervals hold the truth {found.covered:.1%}, "
          f"exact order {found.ordered:.1%}, rank correlation {found.correlation:.3f}")  # fmt: skip
    for spaced in (normally, evenly):
        for spread in (150.0, 200.0, 250.0):
            most = np.mean([most_to_save(spaced(10, spread, run)) for run in range(8)])
            print(f"10 contestants, strengths spread {spaced.__name__} by {spread:.0f} points: "
                  f"informative pairs need {saving(8, spread=spread, spaced=spaced):.0%} fewer "
                  f"votes than random ones, the best possible {most:.0%}")  # fmt: skip
    print(f"1,000,000 votes, 100 contestants: {million():.1f} s")


if __name__ == "__main__":
    main()
