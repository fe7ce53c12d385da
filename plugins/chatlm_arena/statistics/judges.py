"""Calibration of judges: their agreement with the user, and weights that follow from it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatlm import UsageError, one_line
from chatlm_arena.records import HUMAN
from chatlm_arena.statistics.agreement import (
    Kappa,
    Reliability,
    cohen_kappa,
    krippendorff_alpha,
    verdict_table,
)
from chatlm_arena.statistics.prediction_powered import (
    MIN_SHARED,
    JudgedPairs,
    PredictionPowered,
    fit_prediction_powered,
)
from chatlm_arena.store.facts import JudgedMatch, OrderCounts

MIN_WEIGHED = 20
"""Matches that both a judge and the user decided, below which the judge gets no weight."""


@dataclass(frozen=True)
class JudgeRow:
    """How far a judge can be trusted."""

    name: str
    votes: int
    kappa: Kappa
    """Agreement with the user, on three verdicts: left, tie, right."""
    decided: int
    """Matches in which both the judge and the user preferred one side."""
    agreed: int
    """Those in which it was the same one."""
    orders: OrderCounts | None
    """How its verdicts depend on the order of the answers; None for votes of files."""

    @property
    def weight(self) -> float | None:
        """Log-odds of its agreement, at least 0; None where too little is known.

        That is the weight that makes the best of independent judges (Nitzan and Paroush, 1982).
        """
        if self.decided < MIN_WEIGHED:
            return None
        share = (self.agreed + 1) / (self.decided + 2)
        return max(math.log(share / (1 - share)), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON; unknown numbers are None."""
        orders = self.orders
        return {
            "name": self.name,
            "votes": self.votes,
            "shared": self.kappa.matches,
            "agreement": _finite(self.kappa.agreement),
            "kappa": _finite(self.kappa.value),
            "kappa_low": _finite(self.kappa.low),
            "kappa_high": _finite(self.kappa.high),
            "decided": self.decided,
            "agreed": self.agreed,
            "weight": self.weight,
            "both_orders": orders.both if orders else None,
            "same_in_both_orders": orders.same if orders else None,
            "first_wins": orders.first_wins if orders else None,
            "first_decided": orders.decided if orders else None,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Calibration:
    """All judges, and how well they agree with each other."""

    rows: tuple[JudgeRow, ...]
    """The most votes first; without the user."""
    human_votes: int
    reliability: Reliability | None
    """Krippendorff's α of the models, ordinal; None with fewer than two."""


def calibrate_judges(
    matches: Sequence[JudgedMatch],
    votes: Mapping[str, int],
    orders: Mapping[str, OrderCounts],
) -> Calibration:
    """Compare the judges with the user on the matches that both have voted on.

    Args:
        matches: the verdicts on each match.
        votes: number of votes by judge.
        orders: of the models that judge both orders.
    """
    rows = []
    for name in dict.fromkeys([*(judge for judge in votes if judge != HUMAN), *orders]):
        pairs = [
            (match.scores[HUMAN], match.scores[name])
            for match in matches
            if HUMAN in match.scores and name in match.scores
        ]
        decided = [(user, judge) for user, judge in pairs if 0.5 not in (user, judge)]
        rows.append(
            JudgeRow(
                name,
                votes.get(name, 0),
                cohen_kappa(verdict_table([p[0] for p in pairs], [p[1] for p in pairs])),
                len(decided),
                sum(user == judge for user, judge in decided),
                orders.get(name),
            )
        )
    verdicts: dict[str, dict[Hashable, float]] = {}
    for match in matches:
        for judge, score in match.scores.items():
            if judge in orders:
                verdicts.setdefault(judge, {})[match.match_id] = score
    alpha = krippendorff_alpha(verdicts, "ordinal") if len(verdicts) > 1 else None
    return Calibration(tuple(rows), votes.get(HUMAN, 0), alpha)


def judge_weights(calibration: Calibration, judges: Sequence[str]) -> dict[str, float]:
    """Return the weight of each judge of a panel.

    Raises:
        UsageError: too little is known about one, or none agrees with the user more than chance.
    """
    rows = {row.name: row for row in calibration.rows}
    weights = {}
    for name in judges:
        row = rows.get(name)
        weight = row.weight if row else None
        if weight is None:
            have = row.decided if row else 0
            raise UsageError(
                f"{one_line(name, 60)} cannot be weighted: you and it have both decided {have} "
                f"matches, and {MIN_WEIGHED} are needed.",
                hint="Vote on some matches yourself, let it judge those (chatlm arena judge MODEL)"
                ", or leave out --weighted.",
            )
        weights[name] = weight
    if not any(weights.values()):
        raise UsageError(
            "None of these judges agrees with you more often than chance.",
            hint="See chatlm arena judges. Use another judge or another rubric.",
        )
    return weights


@dataclass(frozen=True)
class PoweredRow:
    """A contestant's rating by the user's votes, narrowed by a judge's."""

    name: str
    rating: float
    low: float
    high: float
    human_rating: float
    human_low: float
    human_high: float

    def to_dict(self) -> dict[str, str | float]:
        """Return the row as plain values, ready for JSON."""
        return dict(vars(self))


def powered_board(
    matches: Sequence[JudgedMatch], judge: str
) -> tuple[list[PoweredRow], PredictionPowered]:
    """Rate contestants by the user's votes and a judge's, strongest first.

    Args:
        matches: the verdicts on each match.
        judge: name of the judge.

    Raises:
        UsageError: both have judged too few matches, or the judge no others.
    """
    used = [match for match in matches if judge in match.scores or HUMAN in match.scores]
    known = {name for m in used if HUMAN in m.scores for name in (m.left, m.right)}
    used = [match for match in used if match.left in known and match.right in known]
    names = sorted(known)
    index = {name: at for at, name in enumerate(names)}
    table = JudgedPairs(
        np.array([index[match.left] for match in used], dtype=np.int64),
        np.array([index[match.right] for match in used], dtype=np.int64),
        np.array([match.scores.get(judge, math.nan) for match in used]),
        np.array([match.scores.get(HUMAN, math.nan) for match in used]),
    )
    shared = sum(judge in match.scores and HUMAN in match.scores for match in used)
    if shared < MIN_SHARED:
        raise UsageError(
            f"You and {one_line(judge, 60)} have both judged {shared} matches; {MIN_SHARED} are "
            "needed to correct its votes.",
            hint="Let it judge matches that you voted on: chatlm arena judge MODEL",
        )
    fit = fit_prediction_powered(table, len(names))
    if not fit.judge_only:
        raise UsageError(
            f"{one_line(judge, 60)} has judged no match that you have not.",
            hint="Its votes help where yours are missing: chatlm arena judge MODEL --all",
        )
    low, high = fit.interval
    human_low, human_high = fit.human_interval
    rows = [
        PoweredRow(
            name,
            *(
                float(values[at])
                for values in (fit.rating, low, high, fit.human_rating, human_low, human_high)
            ),
        )
        for at, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: -row.rating), fit
