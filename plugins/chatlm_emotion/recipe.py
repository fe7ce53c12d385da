"""Training methods, their default base models, and hyperparameters with ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from chatlm import UsageError

Method = Literal["baseline", "generate", "head", "encoder"]
METHODS: tuple[Method, ...] = get_args(Method)
TEACHABLE_METHODS: tuple[Method, ...] = ("head", "encoder")
"""Methods that train on label probabilities, and so can be distilled."""

DEFAULT_BASES: dict[str, str] = {
    "generate": "smollm2-135m-instruct",
    "head": "smollm2-135m-instruct",
    "encoder": "all-minilm-l6-v2",
}
"""Default base model of each method."""


_FORMER_NAMES = {
    "rate": "learning_rate",
    "trust": "teacher_weight",
    "batch": "batch_size",
    "warmup": "warmup_ratio",
    "checks": "evals_per_epoch",
    "longest": "max_length",
}
"""Former names of fields, in cards that were written then -> their names now."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run; each method ignores those it does not use.

    Raises:
        UsageError: a value is out of range.
    """

    method: Method
    ngrams: int = 1
    """Longest n-gram of `baseline`. Pairs of words were less accurate on dair-ai's test texts: .877
    instead of .888."""
    strength: float = 3.0
    """Inverse strength of the L2 penalty of `baseline`."""
    rank: int = 16
    """Rank of the LoRA matrices."""
    dropout: float = 0.1
    """Dropout before the head."""
    lora_dropout: float = 0.0
    """LoRA dropout; on a chat model's hundreds of matrices it costs a fifth of the time."""
    learning_rate: float = 5e-4
    """Peak learning rate: linear warm-up, then cosine decay to 0."""
    smoothing: float = 0.05
    """Label smoothing, since some labels are wrong."""
    teacher_weight: float = 1.0
    """Weight of the teachers' probabilities in the target, if there are teachers; the label has the
    rest. Some labels are wrong, and none says how certain it is."""
    epochs: int = 3
    batch_size: int = 16
    """Texts per batch."""
    warmup_ratio: float = 0.06
    """Share of the steps."""
    held_out: float = 0.05
    """Share of the texts held out for early stopping and calibration."""
    evals_per_epoch: int = 2
    """Evaluations per epoch."""
    patience: int = 4
    """Evaluations without a lower loss before training stops early."""
    max_length: int = 128
    """Maximum tokens per text; the rest is cut off."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"There is no method {self.method!r}: {', '.join(METHODS)}.")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} must be from {low:g} to {high:g}, not {value:g}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "method": self.method,
            "ngrams": self.ngrams,
            "strength": self.strength,
            "rank": self.rank,
            "dropout": self.dropout,
            "lora_dropout": self.lora_dropout,
            "learning_rate": self.learning_rate,
            "smoothing": self.smoothing,
            "teacher_weight": self.teacher_weight,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "warmup_ratio": self.warmup_ratio,
            "held_out": self.held_out,
            "evals_per_epoch": self.evals_per_epoch,
            "patience": self.patience,
            "max_length": self.max_length,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Restore from `to_dict`.

        Raises:
            KeyError, TypeError, UsageError: the values are not valid.
        """
        values = {_FORMER_NAMES.get(name, name): value for name, value in values.items()}
        return cls(
            method=values["method"],
            ngrams=values.get("ngrams", cls.ngrams),
            strength=values.get("strength", cls.strength),
            rank=values.get("rank", cls.rank),
            dropout=values.get("dropout", cls.dropout),
            lora_dropout=values.get("lora_dropout", cls.lora_dropout),
            learning_rate=values.get("learning_rate", cls.learning_rate),
            smoothing=values.get("smoothing", cls.smoothing),
            teacher_weight=values.get("teacher_weight", cls.teacher_weight),
            epochs=values.get("epochs", cls.epochs),
            batch_size=values.get("batch_size", cls.batch_size),
            warmup_ratio=values.get("warmup_ratio", cls.warmup_ratio),
            held_out=values.get("held_out", cls.held_out),
            evals_per_epoch=values.get("evals_per_epoch", cls.evals_per_epoch),
            patience=values.get("patience", cls.patience),
            max_length=values.get("max_length", cls.max_length),
            seed=values.get("seed", cls.seed),
        )


METHOD_DEFAULTS: dict[Method, dict[str, Any]] = {
    "baseline": {},
    "generate": {},
    "head": {},
    "encoder": {"learning_rate": 1e-3, "epochs": 6, "lora_dropout": 0.1},
}
"""Defaults of a method that differ from those of `Recipe`."""

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("ngrams", 1, 5),
    ("strength", 1e-4, 1e6),
    ("rank", 1, 256),
    ("dropout", 0, 0.9),
    ("lora_dropout", 0, 0.9),
    ("learning_rate", 1e-8, 1),
    ("smoothing", 0, 0.9),
    ("teacher_weight", 0, 1),
    ("epochs", 1, 1000),
    ("batch_size", 1, 4096),
    ("warmup_ratio", 0, 1),
    ("held_out", 0.001, 0.9),
    ("evals_per_epoch", 1, 1000),
    ("patience", 1, 1000),
    ("max_length", 8, 8192),
    ("seed", 0, 2**32 - 1),
)
