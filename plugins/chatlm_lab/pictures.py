"""Pictures that commands of the lab draw, and the size of curves on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")

COLUMNS, LINES = 70, 8
"""Size of a curve on the terminal, in characters."""

picture_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw a picture into a .png or .svg file.",
)


@contextmanager
def save_figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Save a figure of matplotlib when the block ends.

    Args:
        path: a file that ends in .png or .svg.
        size: width and height, in inches.

    Yields:
        The figure to draw into.

    Raises:
        UsageError: the file has another ending, or cannot be written.
    """
    from chatlm import UsageError

    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} is neither a .png nor an .svg file.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    yield figure
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
