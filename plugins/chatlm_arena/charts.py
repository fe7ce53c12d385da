"""Charts of ratings as text for the terminal and as SVG for the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

import numpy as np

from chatlm import one_line
from chatlm_arena.leaderboard import Leaderboard, LeaderboardRow
from chatlm_arena.ratings import EloRules, elo_history
from chatlm_arena.votes import FloatArray, Votes

NAME_WIDTH = 24
"""Columns of a name before it is cut."""

BLOCKS = " ▁▂▃▄▅▆▇█"

MAX_MATRIX_ROWS = 12
"""Number of contestants in the matrix, strongest first."""

SVG_WIDTH, ROW_HEIGHT, NAME_COLUMN, MARGIN = 860, 30, 190, 26
"""Pixels: width of a chart, height of a row, width of the names, and margin."""

MAX_CURVES = 8
"""Number of contestants with an Elo curve, strongest first."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d00", "#777777")
"""Okabe and Ito's palette, adapted; distinguishable by colour-blind readers."""


def interval_bar(row: LeaderboardRow, low: float, high: float, width: int) -> str:
    """Draw a rating as a point on its 95 % interval, `width` characters from `low` to `high`.

    If the interval is unknown, only the point is drawn.
    """

    def column(rating: float) -> int:
        share = (rating - low) / (high - low) if high > low else 0.5
        return min(max(round(share * (width - 1)), 0), width - 1)

    line = [" "] * width
    if math.isfinite(row.rating_low):
        start, end = column(row.rating_low), column(row.rating_high)
        line[start : end + 1] = "─" * (end + 1 - start)
        line[start], line[end] = "├", "┤"
    line[column(row.rating)] = "●"
    return "".join(line)


def leaderboard_table(rows: Sequence[LeaderboardRow], width: int) -> Iterator[str]:
    """Draw the leaderboard as a table, with intervals where the terminal is wide enough.

    Args:
        rows: strongest first.
        width: columns of the terminal.
    """
    longest = max([10, *(len(one_line(row.name, NAME_WIDTH)) for row in rows)])
    fixed = longest + 52
    plot = min(max(width - fixed, 0), 60)
    ratings = [r for row in rows for r in (row.rating_low, row.rating_high, row.rating)]
    finite = [rating for rating in ratings if math.isfinite(rating)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    yield f"     {'contestant':<{longest}}  rating   95 % interval    elo  games  wins"
    for place, row in enumerate(rows, 1):
        known = math.isfinite(row.rating_low)
        interval = f"{row.rating_low:.0f} to {row.rating_high:.0f}" if known else "unknown"
        plotted = f"  {interval_bar(row, low, high, plot)}" if plot > 10 else ""
        mark = "" if row.is_stable else "?"
        yield (
            f"{place:>3}{mark:<1} {one_line(row.name, NAME_WIDTH):<{longest}}  {row.rating:6.0f}"
            f"  {interval:^14}  {row.elo:5.0f}  {row.games:>5}  {row.win_rate:4.0%}{plotted}"
        ).rstrip()


def matrix_table(board: Leaderboard) -> Iterator[str]:
    """Draw how often the row beats the column, in percent; a tie is half a win."""
    rows = board.rows[:MAX_MATRIX_ROWS]
    place = {name: at for at, name in enumerate(board.votes.names)}
    won = board.win_matrix
    longest = max((len(one_line(row.name, NAME_WIDTH)) for row in rows), default=0)
    yield f"    {'':<{longest}}  " + "".join(f"{at:>5}" for at in range(1, len(rows) + 1))
    for number, row in enumerate(rows, 1):
        cells = []
        for other in rows:
            one, two = place[row.name], place[other.name]
            games = won[one, two] + won[two, one]
            cells.append(f"{won[one, two] / games:5.0%}" if games else "    ·")
        yield f"{number:>3} {one_line(row.name, NAME_WIDTH):<{longest}}  " + "".join(cells)


def elo_curves(votes: Votes, elo_rules: EloRules, points: int) -> FloatArray:
    """Return each contestant's Elo rating over the matches, shape (contestants, points + 1)."""
    lefts, rights = elo_history(votes, elo_rules)
    rating = np.full(len(votes.names), elo_rules.initial_rating, dtype=np.float64)
    out = np.empty((len(votes.names), points + 1))
    out[:, 0] = rating
    ends = np.linspace(0, len(votes), points + 1).round().astype(int)
    for at in range(points):
        for match in range(ends[at], ends[at + 1]):
            rating[votes.left[match]] = lefts[match]
            rating[votes.right[match]] = rights[match]
        out[:, at + 1] = rating
    return out


def elo_sparklines(board: Leaderboard, width: int) -> Iterator[str]:
    """Draw each contestant's Elo rating over the matches, one per line."""
    names = [row.name for row in board.rows]
    longest = max((len(one_line(name, NAME_WIDTH)) for name in names), default=0)
    curves = elo_curves(board.votes, board.elo_rules, max(min(width - longest - 20, 80), 10))
    low, high = (float(curves.min()), float(curves.max())) if curves.size else (0.0, 0.0)
    place = {name: at for at, name in enumerate(board.votes.names)}
    for name in names:
        curve = curves[place[name]]
        steps = (curve - low) / ((high - low) or 1) * (len(BLOCKS) - 2) + 1
        line = "".join(BLOCKS[round(step)] for step in steps.tolist())
        yield f"{one_line(name, NAME_WIDTH):<{longest}}  {line}  {curve[-1]:.0f}"


def svg_intervals(rows: Sequence[LeaderboardRow]) -> str:
    """Draw each rating as a point on its 95 % interval."""
    ratings = [r for row in rows for r in (row.rating, row.rating_low, row.rating_high)]
    low, high = _padded_range([rating for rating in ratings if math.isfinite(rating)])
    height = MARGIN * 2 + ROW_HEIGHT * len(rows)

    def x(rating: float) -> float:
        return NAME_COLUMN + (rating - low) / (high - low) * (SVG_WIDTH - NAME_COLUMN - MARGIN)

    parts = list(_svg_grid(low, high, height, x))
    for place, row in enumerate(rows):
        y = MARGIN + ROW_HEIGHT * place + ROW_HEIGHT / 2
        parts.append(_svg_text(NAME_COLUMN - 12, y + 5, one_line(row.name, 24), "end"))
        if math.isfinite(row.rating_low):
            start, end = x(row.rating_low), x(row.rating_high)
            parts.append(
                f'<path class="line" d="M{start:.1f} {y}H{end:.1f}M{start:.1f} {y - 5}v10'
                f'M{end:.1f} {y - 5}v10"/>'
            )
        parts.append(f'<circle class="point" cx="{x(row.rating):.1f}" cy="{y}" r="5"/>')
    return _svg_document("Ratings with 95 % intervals", height, parts)


def svg_elo_curves(board: Leaderboard) -> str:
    """Draw the Elo ratings over the matches."""
    names = [row.name for row in board.rows][:MAX_CURVES]
    all_curves = elo_curves(board.votes, board.elo_rules, min(max(len(board.votes), 1), 200))
    place = {name: at for at, name in enumerate(board.votes.names)}
    curves = [all_curves[place[name]].tolist() for name in names]
    low, high = _padded_range([rating for curve in curves for rating in curve])
    height = 320

    def y(rating: float) -> float:
        return MARGIN + (high - rating) / (high - low) * (height - 2 * MARGIN)

    parts = []
    for rating in _ticks(low, high):
        parts.append(f'<path class="grid" d="M60 {y(rating):.1f}H{SVG_WIDTH - NAME_COLUMN}"/>')
        parts.append(_svg_text(52, y(rating) + 5, f"{rating:.0f}", "end"))
    for number, (name, curve) in enumerate(zip(names, curves, strict=True)):
        step = (SVG_WIDTH - NAME_COLUMN - 60) / (len(curve) - 1)
        points = " ".join(f"{60 + at * step:.1f},{y(r):.1f}" for at, r in enumerate(curve))
        parts.append(f'<polyline style="stroke:{_COLOURS[number]}" points="{points}"/>')
        parts.append(
            f'<rect x="{SVG_WIDTH - NAME_COLUMN + 14}" y="{MARGIN + 24 * number}" '
            'width="14" height="14" '
            f'style="fill:{_COLOURS[number]}"/>'
        )
        parts.append(
            _svg_text(
                SVG_WIDTH - NAME_COLUMN + 36, MARGIN + 24 * number + 12, one_line(name, 18), "start"
            )
        )
    return _svg_document("Elo ratings over the matches", height, parts)


def _padded_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and largest value with a margin, so that they differ."""
    low, high = min(values, default=1500.0), max(values, default=1500.0)
    margin = max((high - low) * 0.05, 5.0)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    step = next(s for s in (10, 20, 50, 100, 200, 500, 1000, 5000, 1e6) if (high - low) / s <= 8)
    first = math.ceil(low / step)
    return [step * at for at in range(first, math.floor(high / step) + 1)]


def _svg_grid(low: float, high: float, height: float, x: Callable[[float], float]) -> Iterator[str]:
    for rating in _ticks(low, high):
        at = x(rating)
        yield f'<path class="grid" d="M{at:.1f} {MARGIN}V{height - MARGIN}"/>'
        yield _svg_text(at, height - 6, f"{rating:.0f}", "middle")


def _svg_text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg_document(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {SVG_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )
