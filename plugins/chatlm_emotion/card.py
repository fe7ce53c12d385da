"""Card of a classifier: labels, calibration and history; the installed classifiers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chatlm import Artifacts, ChatlmError, dump_json, one_line, write_atomically
from chatlm.plugin_kit import cards
from chatlm.plugin_kit.training_runs import TrainingRuns
from chatlm_emotion.recipe import METHODS, Method

CARD_FILE, README_FILE, WEIGHTS_FILE, VOCABULARY_FILE = (
    "card.json",
    "README.md",
    "weights.safetensors",
    "words.json",
)
"""A classifier's files; only a baseline has a vocabulary."""


UNSURE = "unsure"
"""Prediction in place of a label that is less probable than the threshold."""

NEUTRAL = "neutral"
"""Prediction for a text without any of the labels, by a classifier that was taught some."""


@dataclass(frozen=True)
class ClassifierCard:
    """What a classifier predicts, how it is calibrated, and how it was trained."""

    name: str
    attribute: str
    """What the labels describe, in one word, such as mood; search finds `WORD:LABEL`."""
    method: Method
    labels: tuple[str, ...]
    temperature: float
    """Divides the logits before the softmax."""
    threshold: float
    """Less probable labels become `UNSURE`."""
    base: str = ""
    """The base model; empty for a baseline."""
    fingerprint: str = ""
    """Fingerprint of the base model's weights."""
    description: str = ""
    licence: str = ""
    """Licence of the data; empty if not stated."""
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    command: str = ""
    """The command line, with names of data files instead of paths."""
    source: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    """Scores on the held-out texts."""
    cost: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = (self.name, self.attribute, self.base, *self.labels)
        right = (
            all(isinstance(text, str) for text in texts)
            and self.method in METHODS
            and len(set(self.labels)) == len(self.labels) >= 2
            and math.isfinite(self.temperature)
            and self.temperature > 0
            and 0 <= self.threshold <= 1
        )
        if not right:
            raise ValueError("not a classifier's card")

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "name": self.name,
            "tells": self.attribute,
            "method": self.method,
            "labels": list(self.labels),
            "temperature": self.temperature,
            "threshold": self.threshold,
            "base": self.base,
            "fingerprint": self.fingerprint,
            "description": self.description,
            "licence": self.licence,
            "made_at": self.created_at,
            "command": self.command,
            "source": dict(self.source),
            "settings": dict(self.settings),
            "scores": dict(self.scores),
            "cost": dict(self.cost),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassifierCard:
        """Restore from `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: the values are not valid.
        """
        return cls(
            name=values["name"],
            attribute=values["tells"],
            method=values["method"],
            labels=tuple(values["labels"]),
            temperature=values["temperature"],
            threshold=values["threshold"],
            base=values.get("base", ""),
            fingerprint=values.get("fingerprint", ""),
            description=values.get("description", ""),
            licence=values.get("licence", ""),
            created_at=values.get("made_at", ""),
            command=values.get("command", ""),
            source=values.get("source", {}),
            settings=values.get("settings", {}),
            scores=values.get("scores", {}),
            cost=values.get("cost", {}),
            versions=values.get("versions", {}),
        )


def write_card(card: ClassifierCard, folder: Path) -> None:
    """Write card.json and README.md to a classifier's folder.

    Raises:
        OSError: they cannot be written.
    """
    write_atomically(folder / CARD_FILE, [dump_json(card.to_dict()), "\n"])
    write_atomically(folder / README_FILE, [_readme(card)])


def read_card(folder: Path) -> ClassifierCard:
    """Return the card of a classifier.

    Raises:
        ChatlmError: it is missing or cannot be read.
    """
    try:
        return ClassifierCard.from_dict(json.loads((folder / CARD_FILE).read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ChatlmError(
            f"The classifier {one_line(folder.name, 80)} cannot be read: its {CARD_FILE} "
            "is damaged.",
            hint=f"Remove it: chatlm emotion remove {one_line(folder.name, 80)}",
        ) from error


def card_lines(card: ClassifierCard) -> list[str]:
    """Return the card as lines of a title and a value."""
    return cards.card_lines(
        [
            ("Tells", card.attribute),
            ("Labels", card.labels),
            ("Method", card.method),
            ("Base", card.base),
            ("Made", card.created_at),
            ("Command", card.command),
            *cards.table_rows(card.source),
            ("Licence", card.licence),
            ("Threshold", card.threshold),
            ("Temperature", card.temperature),
            ("Settings", card.settings),
            ("Held out", card.scores),
            ("Cost", card.cost),
        ]
    )


def _readme(card: ClassifierCard) -> str:
    head = [f"# {card.name}", "", card.description or f"Tells the {card.attribute} of a text.", ""]
    return "\n".join([*head, "```", *card_lines(card), "```", ""])


CLASSIFIERS = Artifacts("classifier", "chatlm emotion", Path(__file__).parent / "classifiers")

RUNS = TrainingRuns(CLASSIFIERS, "chatlm emotion train")
"""Trainings of classifiers that were stopped."""


DEFAULT_CLASSIFIER = "mood"
"""Name of the classifier that comes with chatlm."""
