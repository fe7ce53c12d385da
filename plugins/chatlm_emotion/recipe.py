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


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run; each method ignores those it does not use.

    Raises:
        UsageError: a value is out of range.
    """

    method: Method
    ngrams: int = 2
    """Longest n-gram of `baseline`."""
    strength: float = 3.0
    """Inverse strength of the L2 penalty of `baseline`."""
    rank: int = 16
    """Rank of the LoRA matrices."""
    dropout: float = 0.1
    """Dropout before the head."""
    lora_dropout: float = 0.0
    """LoRA dropout; on a chat model's hundreds of matrices it costs a fifth of the time."""
    rate: float = 5e-4
    """Peak learning rate: linear warm-up, then cosine decay to 0."""
    smoothing: float = 0.05
    """Label smoothing, since some labels are wrong."""
    trust: float = 1.0
    """Weight of the teachers' probabilities in the target, if there are teachers; the label has the
    rest. Some labels are wrong, and none says how certain it is."""
    epochs: int = 3
    batch: int = 16
    """Texts per batch."""
    warmup: float = 0.06
    """Share of the steps."""
    held_out: float = 0.05
    """Share of the texts held out for early stopping and calibration."""
    checks: int = 2
    """Evaluations per epoch."""
    patience: int = 4
    """Evaluations without a lower loss before training stops early."""
    longest: int = 128
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
            "rate": self.rate,
            "smoothing": self.smoothing,
            "trust": self.trust,
            "epochs": self.epochs,
            "batch": self.batch,
            "warmup": self.warmup,
            "held_out": self.held_out,
            "checks": self.checks,
            "patience": self.patience,
            "longest": self.longest,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Restore from `to_dict`.

        Raises:
            KeyError, TypeError, UsageError: the values are not valid.
        """
        return cls(
            method=values["method"],
            ngrams=values.get("ngrams", cls.ngrams),
            strength=values.get("strength", cls.strength),
            rank=values.get("rank", cls.rank),
            dropout=values.get("dropout", cls.dropout),
            lora_dropout=values.get("lora_dropout", cls.lora_dropout),
            rate=values.get("rate", cls.rate),
            smoothing=values.get("smoothing", cls.smoothing),
            trust=values.get("trust", cls.trust),
            epochs=values.get("epochs", cls.epochs),
            batch=values.get("batch", cls.batch),
            warmup=values.get("warmup", cls.warmup),
            held_out=values.get("held_out", cls.held_out),
            checks=values.get("checks", cls.checks),
            patience=values.get("patience", cls.patience),
            longest=values.get("longest", cls.longest),
            seed=values.get("seed", cls.seed),
        )


METHOD_DEFAULTS: dict[Method, dict[str, Any]] = {
    "baseline": {},
    "generate": {},
    "head": {},
    "encoder": {"rate": 1e-3, "epochs": 6, "lora_dropout": 0.1},
}
"""Defaults of a method that differ from those of `Recipe`."""

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("ngrams", 1, 5),
    ("strength", 1e-4, 1e6),
    ("rank", 1, 256),
    ("dropout", 0, 0.9),
    ("lora_dropout", 0, 0.9),
    ("rate", 1e-8, 1),
    ("smoothing", 0, 0.9),
    ("trust", 0, 1),
    ("epochs", 1, 1000),
    ("batch", 1, 4096),
    ("warmup", 0, 1),
    ("held_out", 0.001, 0.9),
    ("checks", 1, 1000),
    ("patience", 1, 1000),
    ("longest", 8, 8192),
    ("seed", 0, 2**32 - 1),
)
