"""The threshold of an index: from the settings, or fitted to the user's own questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm import (
    ChatlmError,
    ProgressReporter,
    UsageError,
    dump_json,
    load_plugin_settings,
    write_atomically,
)
from chatlm_rag import PLUGIN
from chatlm_rag.index.folder import IndexFolder, disk_error, find_index
from chatlm_rag.retrieval import relevance
from chatlm_rag.retrieval.search import Index, configured_reranker
from chatlm_rag.settings import Settings

CALIBRATION_FILE = "calibration.json"
"""In the folder of an index; updates of the index keep it."""

MIN_QUESTIONS = 10
"""Least number of answerable questions that a threshold is fitted to."""


class CalibrationStopped(ChatlmError):
    """The user stopped it."""

    exit_code = 130


@dataclass(frozen=True)
class Calibration:
    """A threshold that was fitted to questions."""

    threshold: float
    answerable: int
    """Number of questions that the documents answer."""
    unanswerable: int
    kept_rate: float
    """Share of the answerable questions with at least this confidence."""
    refused_rate: float | None
    """Share of the unanswerable questions below it; None without such questions."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "threshold": self.threshold,
            "answerable": self.answerable,
            "unanswerable": self.unanswerable,
            "kept": self.kept_rate,
            "refused": self.refused_rate,
        }


def threshold_of(name: str) -> float:
    """Return the threshold of an index: its own if it was calibrated, else that of the settings.

    Raises:
        ChatlmError: there is no such index, or its calibration is damaged.
    """
    own = _read(find_index(name))
    return load_plugin_settings(PLUGIN, Settings).threshold if own is None else own


def describe_threshold(name: str) -> str:
    """Return the threshold of an index, and where it is from.

    Raises:
        ChatlmError: there is no such index, or its calibration is damaged.
    """
    own = _read(find_index(name))
    if own is not None:
        return f"{own:.2f}, calibrated for {name}"
    return f"{load_plugin_settings(PLUGIN, Settings).threshold:.2f}, plugins.rag.threshold"


def fit(answerable: Sequence[float], unanswerable: Sequence[float]) -> Calibration:
    """Fit a threshold to the confidences of questions.

    With unanswerable questions, it is the one that keeps and refuses best on average, among those
    that keep `relevance.TARGET_KEPT_RATE` of the answerable ones; without, the highest of those.

    Raises:
        UsageError: there are too few answerable questions.
    """
    if len(answerable) < MIN_QUESTIONS:
        raise UsageError(
            f"A threshold cannot be fitted to {len(answerable)} questions.",
            hint=f"Write at least {MIN_QUESTIONS} that the documents answer, one a line.",
        )
    highest = relevance.calibrate(answerable)
    if not unanswerable:
        kept = sum(value >= highest for value in answerable) / len(answerable)
        return Calibration(highest, len(answerable), 0, kept, None)
    points = [
        point
        for point in relevance.threshold_curve(answerable, unanswerable)
        if point.threshold <= highest
    ]
    best = max(points, key=lambda point: point.kept_rate + point.refused_rate)
    return Calibration(
        best.threshold, len(answerable), len(unanswerable), best.kept_rate, best.refused_rate
    )


def read_questions(path: Path) -> list[str]:
    """Read questions from a text file, one a line; blank lines are left out.

    Raises:
        UsageError: the file cannot be read or has no question.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{path} cannot be read: {reason}.") from error
    questions = [line.strip() for line in lines if line.strip()]
    if not questions:
        raise UsageError(f"{path} has no question.", hint="Write one on each line.")
    return questions


def confidences(index: Index, questions: Sequence[str], work: ProgressReporter) -> list[float]:
    """Return the confidence that an index answers each question.

    Raises:
        ChatlmError: the index cannot be searched, or the user stopped it.
    """
    values = []
    for done, question in enumerate(questions):
        if work.cancelled:
            raise CalibrationStopped("Stopped; the threshold is as it was.")
        work.update(done, len(questions), "asking")
        hits = index.search(question, relevance.CONSIDERED_HITS, configured_reranker())
        values.append(index.confidence(question, hits))
    return values


def save(index: IndexFolder, calibration: Calibration) -> None:
    """Store the threshold of an index.

    Raises:
        ChatlmError: the index comes with chatlm, is being changed, or cannot be written.
    """
    try:
        with index.lock():
            write_atomically(index.path / CALIBRATION_FILE, [dump_json(calibration.to_dict())])
    except OSError as error:
        raise disk_error(error, index.name) from error


def reset(index: IndexFolder) -> None:
    """Let an index use the threshold of the settings again.

    Raises:
        ChatlmError: the index comes with chatlm, or is being changed.
    """
    try:
        with index.lock():
            (index.path / CALIBRATION_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, index.name) from error


def _read(index: IndexFolder) -> float | None:
    path: Path = index.path / CALIBRATION_FILE
    try:
        threshold = json.loads(path.read_bytes())["threshold"]
        if isinstance(threshold, (int, float)) and 0 <= threshold <= 1:
            return float(threshold)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise ChatlmError(
        f"The threshold of the index {index.name} cannot be read from {path}.",
        hint=f"Remove it: chatlm rag calibrate {index.name} --reset",
    )
