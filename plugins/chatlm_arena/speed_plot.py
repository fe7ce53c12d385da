"""The plot of quality against time as a picture file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from chatlm import UsageError, one_line
from chatlm_arena.statistics.pareto import SpeedRow

FORMATS = (".png", ".svg")


def write_speed_plot(rows: Sequence[SpeedRow], path: Path) -> None:
    """Draw ratings with their intervals over seconds, and the line of the efficient contestants.

    Args:
        rows: fastest first.
        path: a file that ends in .png or .svg.

    Raises:
        UsageError: there is nothing to draw, or the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} is neither a .png nor an .svg file.")
    if not rows:
        raise UsageError(
            "There is nothing to draw: no reply of a rated contestant has a known time.",
            hint="Play matches: chatlm arena",
        )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    efficient = [row for row in rows if row.is_efficient]
    axes.step(
        [row.seconds for row in efficient],
        [row.rating for row in efficient],
        where="post",
        color="#0072b2",
        alpha=0.5,
        label="no other is faster and better",
    )
    for row in rows:
        colour = "#0072b2" if row.is_efficient else "#777777"
        known = math.isfinite(row.low)
        axes.errorbar(
            row.seconds,
            row.rating,
            yerr=[[row.rating - row.low], [row.high - row.rating]] if known else None,
            fmt="o",
            color=colour,
            capsize=3,
        )
        name = one_line(row.name, 30).replace("$", r"\$")  # no formula
        axes.annotate(
            name, (row.seconds, row.rating), xytext=(6, 5), textcoords="offset points", color=colour
        )
    if len({row.seconds for row in rows}) > 1:
        axes.set_xscale("log")
    axes.set_xlabel("seconds of a reply (median)")
    axes.set_ylabel("rating with its 95 % interval")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
