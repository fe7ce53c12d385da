"""Style control: how length, Markdown, lists and position sway votes, and ratings without it.

As LMArena's style control, differences of style are covariates of the model of the votes, so that
the strengths are those of replies of equal style. The normalised difference (a - b) / (a + b) of
counts makes the effect of "twice as much" the same for short and long replies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chatlm_arena.pairing import Z_95
from chatlm_arena.ratings import POINTS_PER_LOG_STRENGTH
from chatlm_arena.statistics.preference_model import (
    PreferenceFit,
    Ties,
    comparisons_from_votes,
    fit_preferences,
)
from chatlm_arena.votes import FloatArray, IntArray, Votes

POSITION = "position"
"""The covariate that is 1 for every vote: the left side's advantage."""

MIN_VARYING = 20
"""Votes in which a covariate must differ between the sides; below, it is left out."""

MIN_OWN_VARIANCE = 0.02
"""Share of a covariate's variance that neither the contestants nor the other covariates explain;
below, it is left out."""

_CODE = re.compile(r"^(```|~~~).*?(^\1|\Z)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^ {0,3}#{1,6} ", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^\s*](?:[^*\n]*[^\s*])?\*\*|__[^\s_](?:[^_\n]*[^\s_])?__")
_LIST = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)]) +\S", re.MULTILINE)


class Style(NamedTuple):
    """What of a reply's style is counted, outside of code blocks but for the length."""

    length: int
    """Characters, runs of whitespace as one."""
    headings: int
    bold: int
    lists: int
    """List items."""


STYLE_NAMES = {
    "length": "twice as long",
    "headings": "only one has headings",
    "bold": "only one has bold text",
    "lists": "only one has lists",
    POSITION: "left rather than right",
}
"""Each covariate, and the difference for which its effect is shown."""

SHOWN_DIFFERENCE = {"length": 1 / 3, "headings": 1.0, "bold": 1.0, "lists": 1.0, POSITION: 1.0}
"""The same as a value of the covariate."""


def measure_style(text: str) -> Style:
    """Count what belongs to a reply's style."""
    prose = _CODE.sub("", text)
    return Style(
        len(" ".join(text.split())),
        len(_HEADING.findall(prose)),
        len(_BOLD.findall(prose)),
        len(_LIST.findall(prose)),
    )


def style_differences(left: Sequence[Style], right: Sequence[Style]) -> FloatArray:
    """Return (left - right) / (left + right) of each count, 0 where both are 0.

    Shape (replies, counts), from -1 to 1.
    """
    one = np.array(left, dtype=np.float64).reshape(-1, len(Style._fields))
    other = np.array(right, dtype=np.float64).reshape(-1, len(Style._fields))
    total = one + other
    out: FloatArray = np.divide(one - other, total, out=np.zeros_like(total), where=total > 0)
    return out


@dataclass(frozen=True)
class StyleEffect:
    """How a difference of style changes the odds of a vote."""

    name: str
    points: float
    """Rating points that the difference in `STYLE_NAMES` is worth."""
    low: float
    high: float
    """Ends of its 95 % interval."""

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high

    @property
    def win_rate(self) -> float:
        """Share of the decided votes that it wins between equals."""
        return float(1 / (1 + 10 ** (-self.points / 400)))

    def to_dict(self) -> dict[str, str | float]:
        """Return the effect as plain values, ready for JSON."""
        return {
            "name": self.name,
            "difference": STYLE_NAMES[self.name],
            "points": self.points,
            "low": self.low,
            "high": self.high,
            "win_rate": self.win_rate,
        }


@dataclass(frozen=True, eq=False)
class StyleControl:
    """A fit with style as covariates."""

    fit: PreferenceFit
    effects: tuple[StyleEffect, ...]
    """Largest effect first."""
    left_out: tuple[str, ...]
    """Covariates that hardly differ in these votes."""
    confounded: tuple[str, ...]
    """Covariates that are nearly always the same for a contestant, or follow from the others, so
    that their effect cannot be told from its strength."""


def control_style(
    votes: Votes,
    differences: FloatArray,
    ties: Ties = Ties.DAVIDSON,
    cluster: IntArray | None = None,
) -> StyleControl:
    """Fit strengths together with the effects of style and position.

    Args:
        votes: votes whose replies are known.
        differences: shape (votes, counts), from `style_differences`.
        ties: how ties enter.
        cluster: shape (votes,); see `Comparisons.cluster`.
    """
    names = [*Style._fields, POSITION]
    columns = np.column_stack([differences, np.ones(len(votes))])
    varying = (np.abs(columns) > 0).sum(axis=0) >= MIN_VARYING
    kept, confounded = _tell_apart(votes, columns, np.flatnonzero(varying).tolist())
    fit = fit_preferences(comparisons_from_votes(votes, columns[:, kept], cluster), ties)
    return StyleControl(
        fit,
        tuple(
            sorted(
                _effects([names[at] for at in kept], fit), key=lambda effect: -abs(effect.points)
            )
        ),
        tuple(name for name, used in zip(names, varying, strict=True) if not used),
        tuple(names[at] for at in confounded),
    )


def _tell_apart(
    votes: Votes, columns: FloatArray, wanted: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the covariates that differ enough within pairs of contestants, and the others."""
    matches = np.zeros((len(votes), len(votes.names)))
    rows = np.arange(len(votes))
    matches[rows, votes.left] = 1.0
    matches[rows, votes.right] -= 1.0
    known, kept, confounded = matches, [], []
    for at in wanted:
        column = columns[:, at]
        rest = column - known @ np.linalg.lstsq(known, column, rcond=None)[0]
        if rest @ rest < MIN_OWN_VARIANCE * (column @ column):
            confounded.append(at)
            continue
        known = np.column_stack([known, column])
        kept.append(at)
    return kept, confounded


def _effects(names: Sequence[str], fit: PreferenceFit) -> Iterable[StyleEffect]:
    for name, effect, error in zip(
        names, fit.effects.tolist(), fit.effect_error.tolist(), strict=True
    ):
        unit = SHOWN_DIFFERENCE[name] * POINTS_PER_LOG_STRENGTH
        half = Z_95 * error
        yield StyleEffect(name, effect * unit, (effect - half) * unit, (effect + half) * unit)
