"""Lab models on disk, each a folder with its card, and what they are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from chatlm import Artifact, Artifacts, ChatlmError, data_dir, dump_json, one_line, write_atomically
from chatlm_lab.smoothing import SMOOTHINGS, SmoothingName
from chatlm_lab.tokenizer_kinds import KINDS, TokenizerKind

CARD_FILE, COUNTS_FILE = "card.json", "counts.safetensors"
"""Files of a lab model beside those of its tokenizer."""

Architecture = Literal["ngram"]

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)


@dataclass(frozen=True)
class LabCard:
    """What a lab model is, what it was trained on, and how well it predicts held-out text."""

    name: str
    architecture: Architecture
    order: int
    """Length of the longest n-grams."""
    smoothing: SmoothingName
    tokenizer: TokenizerKind
    vocabulary: int
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    command: str = ""
    """The command line, with names of data files instead of paths."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Files, texts, bytes and tokens, of training and held-out text."""
    ngrams: tuple[int, ...] = ()
    """Number of different n-grams of each length."""
    held_out: Mapping[str, Any] = field(default_factory=dict)
    """As `Evaluation.to_dict`; empty without validation."""
    cost: Mapping[str, Any] = field(default_factory=dict)
    """Seconds of each step, and bytes on disk."""
    licence: str = ""
    """Licence of the data; empty if not stated."""

    def __post_init__(self) -> None:
        right = (
            isinstance(self.name, str)
            and self.architecture in ARCHITECTURES
            and self.smoothing in SMOOTHINGS
            and self.tokenizer in KINDS
            and isinstance(self.order, int)
            and isinstance(self.vocabulary, int)
        )
        if not right:
            raise ValueError("not a lab model's card")

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "name": self.name,
            "architecture": self.architecture,
            "order": self.order,
            "smoothing": self.smoothing,
            "tokenizer": self.tokenizer,
            "vocabulary": self.vocabulary,
            "created_at": self.created_at,
            "command": self.command,
            "data": dict(self.data),
            "ngrams": list(self.ngrams),
            "held_out": dict(self.held_out),
            "cost": dict(self.cost),
            "licence": self.licence,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LabCard:
        """Restore from `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: the values are not valid.
        """
        return cls(
            name=values["name"],
            architecture=values["architecture"],
            order=values["order"],
            smoothing=values["smoothing"],
            tokenizer=values["tokenizer"],
            vocabulary=values["vocabulary"],
            created_at=values.get("created_at", ""),
            command=values.get("command", ""),
            data=values.get("data", {}),
            ngrams=tuple(values.get("ngrams", ())),
            held_out=values.get("held_out", {}),
            cost=values.get("cost", {}),
            licence=values.get("licence", ""),
        )

    @property
    def description(self) -> str:
        """The model in a few words, such as `5-gram, Kneser–Ney, 4,096 tokens (bpe)`."""
        smoothing = {"kneser-ney": "Kneser–Ney", "backoff": "back-off", "laplace": "Laplace"}
        return (
            f"{self.order}-gram, {smoothing[self.smoothing]}, "
            f"{self.vocabulary:,} tokens ({self.tokenizer})"
        )


class LabModels(Artifacts):
    """The lab models, which are all the user's own."""

    @property
    def user_root(self) -> Path:
        """The folder of the models; it may not exist."""
        return data_dir() / "lab"


LAB_MODELS = LabModels("lab model", "chatlm lab", Path(__file__).parent / "models")


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
    rows: list[tuple[str, Any]] = [
        ("Model", card.description),
        ("Made", card.created_at),
        ("Command", card.command),
        ("Licence", card.licence),
        *((key.replace("_", " ").capitalize(), value) for key, value in card.data.items()),
        ("N-grams", card.ngrams),
        ("Held out", card.held_out),
        ("Cost", card.cost),
    ]
    shown = [
        (title, _format_value(value)) for title, value in rows if value not in ("", (), [], {})
    ]
    width = max(len(title) for title, _ in shown)
    return [f"{title:<{width}}  {one_line(text, 600)}" for title, text in shown]


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key.replace('_', ' ')} {_format_value(each)}" for key, each in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(map(_format_value, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
