"""What is said about a leaderboard in sentences: how sure it is, and what may have swayed it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from chatlm import one_line
from chatlm_arena.biases import Bias
from chatlm_arena.leaderboard import STABLE, Leaderboard

MOST_VOTES = 100_000
"""More are not worth telling."""

MOST_PAIRS = 5
"""So many pairs, the strongest, are told about."""

FEWEST_DECIDED = 20
"""Votes below which nothing is said about what may have swayed them."""


def sentences(found: Leaderboard, sides: Bias, length: Bias) -> Iterator[str]:
    """Each a line.

    Args:
        found: the leaderboard.
        sides: how often the left side won.
        length: how often the longer reply won.
    """
    rows = found.rows
    if any(not row.is_steady for row in rows):
        yield f"? Not enough votes yet: a rating is steady after {STABLE} to {2 * STABLE} games."
    close = [(row, below) for row, below in pairwise(rows) if row.more]
    for row, below in close[:MOST_PAIRS]:
        if row.more and row.more <= MOST_VOTES:
            pair = f"{one_line(row.name, 40)} from {one_line(below.name, 40)}"
            what = "vote" if row.more == 1 else "votes"
            yield f"About {row.more:,} more {what} between them would separate {pair}."
    if found.unseen:
        yield f"Without a vote yet: {one_line(', '.join(found.unseen), 200)}."
    for what, bias in (("left side", sides), ("longer reply", length)):
        if bias.decided >= FEWEST_DECIDED and bias.rate is not None and (ends := bias.interval):
            verdict = "which chance hardly explains" if bias.is_clear else "which may be chance"
            yield (
                f"The {what} won {bias.rate:.0%} of {bias.decided:,} decided votes "
                f"({ends[0]:.0%} to {ends[1]:.0%}), {verdict}."
            )
