"""Lab models on disk, each a folder with its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chatlm import Artifact, Artifacts, ChatlmError, data_dir, dump_json, one_line, write_atomically
from chatlm.plugin_kit import cards
from chatlm.plugin_kit.training_runs import TrainingRuns

CARD_FILE = "card.json"
"""File of a lab model beside those of its tokenizer and its architecture."""


@dataclass(frozen=True)
class LabCard:
    """What a lab model is, what it was trained on, and how well it predicts held-out text."""

    name: str
    architecture: str
    """Its name in `chatlm_lab.architectures`."""
    description: str
    """The model in a few words, such as `5-gram, Kneser–Ney, 4,096 tokens (bpe)`."""
    tokenizer: str
    """Its kind, see `chatlm_lab.tokenizer_kinds`."""
    vocabulary: int
    settings: Mapping[str, Any]
    """The recipe, as `LabRecipe.to_dict`."""
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    command: str = ""
    """The command line, with names of data files instead of paths."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Files, texts, bytes and tokens, of training and held-out text."""
    size: Mapping[str, Any] = field(default_factory=dict)
    """`ngrams` of each length, or `parameters`."""
    held_out: Mapping[str, Any] = field(default_factory=dict)
    """As `Evaluation.to_dict`; empty without validation."""
    curve: Mapping[str, Any] = field(default_factory=dict)
    """`train` and `held_out`, each a list of steps with losses in nats; empty if it was counted."""
    cost: Mapping[str, Any] = field(default_factory=dict)
    """Seconds of each step, and bytes on disk."""
    licence: str = ""
    """Licence of the data; empty if not stated."""

    def __post_init__(self) -> None:
        texts = (self.name, self.architecture, self.description, self.tokenizer, self.licence)
        tables = (self.settings, self.data, self.size, self.held_out, self.curve, self.cost)
        right = (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(table, Mapping) for table in tables)
            and isinstance(self.vocabulary, int)
        )
        if not right:
            raise ValueError("not a lab model's card")

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "name": self.name,
            "architecture": self.architecture,
            "description": self.description,
            "tokenizer": self.tokenizer,
            "vocabulary": self.vocabulary,
            "settings": dict(self.settings),
            "created_at": self.created_at,
            "command": self.command,
            "data": dict(self.data),
            "size": dict(self.size),
            "held_out": dict(self.held_out),
            "curve": dict(self.curve),
            "cost": dict(self.cost),
            "licence": self.licence,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LabCard:
        """Restore from `to_dict`, or from the first form of a card, which had n-grams only.

        Raises:
            KeyError, TypeError, ValueError: the values are not valid.
        """
        if "settings" not in values:
            values = _from_first_form(values)
        return cls(
            name=values["name"],
            architecture=values["architecture"],
            description=values["description"],
            tokenizer=values["tokenizer"],
            vocabulary=values["vocabulary"],
            settings=values["settings"],
            created_at=values.get("created_at", ""),
            command=values.get("command", ""),
            data=values.get("data", {}),
            size=values.get("size", {}),
            held_out=values.get("held_out", {}),
            curve=values.get("curve", {}),
            cost=values.get("cost", {}),
            licence=values.get("licence", ""),
        )


def _from_first_form(values: Mapping[str, Any]) -> dict[str, Any]:
    order, smoothing, tokenizer = (values[key] for key in ("order", "smoothing", "tokenizer"))
    return {
        **values,
        "description": f"{order}-gram, {smoothing}, {values['vocabulary']:,} tokens ({tokenizer})",
        "settings": {"order": order, "smoothing": smoothing, "tokenizer": tokenizer},
        "size": {"ngrams": values.get("ngrams", [])},
    }


class LabModels(Artifacts):
    """The lab models, which are all the user's own."""

    @property
    def user_root(self) -> Path:
        """The folder of the models; it may not exist."""
        return data_dir() / "lab"


LAB_MODELS = LabModels("lab model", "chatlm lab", Path(__file__).parent / "models")

RUNS = TrainingRuns(LAB_MODELS, "chatlm lab train")
"""Trainings that were stopped and can be continued."""


def write_card(card: LabCard, folder: Path) -> None:
    """Write the card to a model's folder.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(folder / CARD_FILE, [dump_json(card.to_dict()), "\n"])


def read_card(place: Artifact) -> LabCard:
    """Return the card of a lab model.

    Raises:
        ChatlmError: it is missing or cannot be read.
    """
    try:
        return LabCard.from_dict(json.loads((place.path / CARD_FILE).read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise damaged(place, f"its {CARD_FILE} cannot be read") from error


def damaged(place: Artifact, problem: str) -> ChatlmError:
    """Return the error for a lab model that cannot be read."""
    name = one_line(place.name, 80)
    return ChatlmError(
        f"The lab model {name} cannot be opened: {one_line(problem, 200)}.",
        hint=f"Remove it, and train it again: chatlm lab remove {name}",
    )


def card_lines(card: LabCard) -> list[str]:
    """Return the card as lines of a title and a value."""
    return cards.card_lines(
        [
            ("Model", card.description),
            ("Made", card.created_at),
            ("Command", card.command),
            ("Licence", card.licence),
            *cards.table_rows(card.data),
            ("Settings", card.settings),
            ("Size", card.size),
            ("Held out", card.held_out),
            ("Cost", card.cost),
        ]
    )
