"""Agreement of judges: Cohen's κ with an interval, and Krippendorff's α."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from chatlm_arena.pairing import Z_95
from chatlm_arena.votes import FloatArray

ALPHA_RESAMPLES = 1000

Distance = Literal["nominal", "ordinal", "interval"]
"""How far two values are apart."""


@dataclass(frozen=True)
class Kappa:
    """Cohen's κ of two judges."""

    matches: int
    """Number of matches that both judged."""
    agreement: float
    """Share of them with equal verdicts."""
    value: float
    """1 for full agreement, 0 for that of chance; nan if chance alone explains all of it."""
    low: float
    high: float
    """Ends of the 95 % interval; nan without one."""


def cohen_kappa(table: FloatArray) -> Kappa:
    """Return Cohen's κ of a table of counts, verdicts of one judge by those of the other.

    The standard error is that of Fleiss, Cohen and Everitt (1969, "Large sample standard errors of
    kappa and weighted kappa"). scikit-learn's κ has none; statsmodels is not worth its size for one
    formula.

    Args:
        table: shape (verdicts, verdicts).
    """
    total = float(table.sum())
    if not total:
        return Kappa(0, float("nan"), float("nan"), float("nan"), float("nan"))
    share = table / total
    rows, columns = share.sum(axis=1), share.sum(axis=0)
    observed, expected = float(np.trace(share)), float(rows @ columns)
    if expected >= 1:
        return Kappa(int(total), observed, float("nan"), float("nan"), float("nan"))
    value = (observed - expected) / (1 - expected)
    marginal = rows[np.newaxis] + columns[:, np.newaxis]  # [i, j]: column i and row j
    off = share.copy()
    np.fill_diagonal(off, 0.0)
    on_diagonal = float(np.diag(share) @ (1 - (rows + columns) * (1 - value)) ** 2)
    off_diagonal = (1 - value) ** 2 * float((off * marginal**2).sum())
    correction = (value - expected * (1 - value)) ** 2
    variance = max(on_diagonal + off_diagonal - correction, 0.0) / (total * (1 - expected) ** 2)
    half = Z_95 * variance**0.5
    return Kappa(int(total), observed, value, max(value - half, -1.0), min(value + half, 1.0))


@dataclass(frozen=True)
class Reliability:
    """Krippendorff's α of several judges."""

    units: int
    """Number of answers or matches that at least two judged."""
    judges: int
    value: float
    """1 for full agreement, 0 for that of chance."""
    low: float
    high: float
    """Ends of the 95 % bootstrap interval."""


def krippendorff_alpha(
    ratings: Mapping[str, Mapping[Hashable, float]], distance: Distance, seed: int = 0
) -> Reliability | None:
    """Return Krippendorff's α, computed by evalica.

    Args:
        ratings: each judge's values by unit; a judge may lack units.
        distance: how far two values are apart.
        seed: seed of the bootstrap.

    Returns:
        None if fewer than two units were judged twice, or if all values are equal.
    """
    import pandas as pd
    from evalica import alpha, alpha_bootstrap

    counts: dict[Hashable, int] = {}
    for values in ratings.values():
        for unit in values:
            counts[unit] = counts.get(unit, 0) + 1
    units = [unit for unit, count in counts.items() if count > 1]
    used = {judge: values for judge, values in ratings.items() if any(u in values for u in units)}
    table = pd.DataFrame(
        [[values.get(unit, np.nan) for unit in units] for values in used.values()], dtype=float
    )
    if (
        len(units) < 2
        or len(pd.unique(table.to_numpy().ravel()[~table.isna().to_numpy().ravel()])) < 2
    ):
        return None
    found = alpha(table, distance)
    spread = alpha_bootstrap(
        table,
        distance,
        n_resamples=ALPHA_RESAMPLES,
        random_state=seed,
    )
    return Reliability(len(units), len(used), found.alpha, spread.low, spread.high)


def verdict_table(one: Sequence[float], other: Sequence[float]) -> FloatArray:
    """Count the pairs of scores (1, 0.5 or 0) of two judges, shape (3, 3)."""
    table = np.zeros((3, 3))
    np.add.at(
        table, (np.rint(2 * np.array(one)).astype(int), np.rint(2 * np.array(other)).astype(int)), 1
    )
    return table
