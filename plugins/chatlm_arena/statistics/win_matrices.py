"""Bradley-Terry log-strengths of many small win matrices at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chatlm_arena.votes import FloatArray

BoolArray = npt.NDArray[np.bool_]

_TOLERANCE, _MAX_ITERATIONS = 1e-9, 500
"""Stopping rule of Newton's method: the largest step, and the number of steps."""

_LONGEST_STEP = 1.5
"""Log-odds by which one step moves at most, so that no step overshoots far."""


def fit_win_matrices(won: FloatArray) -> FloatArray:
    """Return the log-strengths of each win matrix, with mean 0.

    These are those of `chatlm_arena.ratings.fit_strengths`, by Newton's method for all at once;
    what has no finite maximum gets the same added ties. Entries may be negative, as corrected wins
    are.

    Args:
        won: shape (fits, contestants, contestants), wins of the row against the column.

    Returns:
        Shape (fits, contestants).

    Raises:
        ArithmeticError: a fit did not converge.
    """
    fits, size, _ = won.shape
    apart = ~_strongly_connected(won)
    if apart.any():
        won = won.copy()
        won[apart] += (0.5 / (size - 1)) * (1 - np.eye(size))
    games = won + won.transpose(0, 2, 1)
    logs = np.zeros((fits, size))
    active = np.arange(fits)
    for _ in range(_MAX_ITERATIONS):
        here = logs[active]
        gap = np.clip(here[:, np.newaxis] - here[:, :, np.newaxis], -60, 60)
        chance = 1 / (1 + np.exp(gap))
        gradient = (won[active] - games[active] * chance).sum(axis=2)
        weight = games[active] * chance * (1 - chance)
        laplacian = -weight + 1 / size
        laplacian[:, np.arange(size), np.arange(size)] += weight.sum(axis=2)
        step = np.linalg.solve(laplacian, gradient[..., np.newaxis])[..., 0]
        largest = np.abs(step).max(axis=1, keepdims=True)
        logs[active] += step * np.minimum(1.0, _LONGEST_STEP / np.maximum(largest, 1e-300))
        active = active[largest[:, 0] >= _TOLERANCE]
        if not len(active):
            return np.asarray(logs - logs.mean(axis=1, keepdims=True), dtype=np.float64)
    raise ArithmeticError(f"{len(active)} fits did not converge in {_MAX_ITERATIONS} steps")


def _strongly_connected(won: FloatArray) -> BoolArray:
    """Return whether wins and ties lead from everyone to everyone, shape (fits,)."""
    size = won.shape[-1]
    reached = (won > 0) | np.eye(size, dtype=bool)
    for _ in range(size.bit_length()):
        steps = reached.astype(np.float32)
        reached = steps @ steps > 0
    return np.asarray(reached.all(axis=(1, 2)), dtype=np.bool_)
