"""Ratings drawn in plain characters, line by line; knows no terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from chatlm import one_line
from chatlm_arena.elo import EloRules, history
from chatlm_arena.leaderboard import Leaderboard, Row
from chatlm_arena.votes import Numbers, Votes

NAME = 24
"""Width of the longest name that is shown whole."""

BLOCKS = " ▁▂▃▄▅▆▇█"

LONGEST_MATRIX = 12
"""So many contestants, the strongest, are in the matrix."""


def interval(row: Row, low: float, high: float, width: int) -> str:
    """A rating as a point on its 95 % interval, `width` characters from `low` to `high`.

    Where the interval is not known the point stands alone.
    """

    def place(rating: float) -> int:
        share = (rating - low) / (high - low) if high > low else 0.5
        return min(max(round(share * (width - 1)), 0), width - 1)

    line = [" "] * width
    if math.isfinite(row.rating_low):
        begin, end = place(row.rating_low), place(row.rating_high)
        line[begin : end + 1] = "─" * (end + 1 - begin)
        line[begin], line[end] = "├", "┤"
    line[place(row.rating)] = "●"
    return "".join(line)


def board(rows: Sequence[Row], width: int) -> Iterator[str]:
    """The leaderboard as a table with intervals.

    Args:
        rows: the strongest first.
        width: columns of the terminal.
    """
    longest = max([10, *(len(one_line(row.name, NAME)) for row in rows)])
    fixed = longest + 52
    plot = min(max(width - fixed, 0), 60)
    ends = [end for row in rows for end in (row.rating_low, row.rating_high, row.rating)]
    known = [end for end in ends if math.isfinite(end)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    head = f"     {'contestant':<{longest}}  rating   95 % interval    elo  games  wins"
    yield head
    for place, row in enumerate(rows, 1):
        sure = math.isfinite(row.rating_low)
        told = f"{row.rating_low:.0f} to {row.rating_high:.0f}" if sure else "unknown"
        drawn = f"  {interval(row, low, high, plot)}" if plot > 10 else ""
        few = "" if row.is_steady else "?"
        yield (
            f"{place:>3}{few:<1} {one_line(row.name, NAME):<{longest}}  {row.rating:6.0f}"
            f"  {told:^14}  {row.elo:5.0f}  {row.games:>5}  {row.win_rate:4.0%}{drawn}"
        ).rstrip()


def matrix(found: Leaderboard) -> Iterator[str]:
    """How often the row beats the column, in percent, a tie as half a win."""
    rows = found.rows[:LONGEST_MATRIX]
    place = {name: at for at, name in enumerate(found.votes.names)}
    won = found.wins
    longest = max((len(one_line(row.name, NAME)) for row in rows), default=0)
    yield f"    {'':<{longest}}  " + "".join(f"{at:>5}" for at in range(1, len(rows) + 1))
    for number, row in enumerate(rows, 1):
        cells = []
        for other in rows:
            one, two = place[row.name], place[other.name]
            games = won[one, two] + won[two, one]
            cells.append(f"{won[one, two] / games:5.0%}" if games else "    ·")
        yield f"{number:>3} {one_line(row.name, NAME):<{longest}}  " + "".join(cells)


def curves(votes: Votes, rules: EloRules, points: int) -> Numbers:
    """Each contestant's Elo rating over the matches, shape (contestants, points + 1)."""
    lefts, rights = history(votes, rules)
    rating = np.full(len(votes.names), rules.start, dtype=np.float64)
    out = np.empty((len(votes.names), points + 1))
    out[:, 0] = rating
    ends = np.linspace(0, len(votes), points + 1).round().astype(int)
    for at in range(points):
        for match in range(ends[at], ends[at + 1]):
            rating[votes.left[match]] = lefts[match]
            rating[votes.right[match]] = rights[match]
        out[:, at + 1] = rating
    return out


def over_matches(found: Leaderboard, width: int) -> Iterator[str]:
    """The Elo rating of each over the matches, a line each."""
    names = [row.name for row in found.rows]
    longest = max((len(one_line(name, NAME)) for name in names), default=0)
    drawn = curves(found.votes, found.rules, max(min(width - longest - 20, 80), 10))
    low, high = (float(drawn.min()), float(drawn.max())) if drawn.size else (0.0, 0.0)
    place = {name: at for at, name in enumerate(found.votes.names)}
    for name in names:
        curve = drawn[place[name]]
        steps = (curve - low) / ((high - low) or 1) * (len(BLOCKS) - 2) + 1
        line = "".join(BLOCKS[round(step)] for step in steps.tolist())
        yield f"{one_line(name, NAME):<{longest}}  {line}  {curve[-1]:.0f}"
