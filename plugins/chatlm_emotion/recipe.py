"""How a classifier is trained: the methods, and every setting with its range; knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from chatlm import UsageError

Method = Literal["baseline", "generate", "head", "encoder"]
METHODS: tuple[Method, ...] = get_args(Method)
TEACHABLE_METHODS: tuple[Method, ...] = ("head", "encoder")
"""The methods that learn how likely each label is, and so from a teacher."""

DEFAULT_BASES: dict[str, str] = {
    "generate": "smollm2-135m-instruct",
    "head": "smollm2-135m-instruct",
    "encoder": "all-minilm-l6-v2",
}
"""The model each method adapts where none is named."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training; what a method has no use for, it passes over.

    Raises:
        UsageError: one is out of its range.
    """

    method: Method
    ngrams: int = 2
    """Longest run of words that `baseline` counts."""
    strength: float = 3.0
    """Inverse strength of the L2 penalty of `baseline`."""
    rank: int = 16
    """Of the LoRA matrices."""
    dropout: float = 0.1
    """Before the head."""
    lora_dropout: float = 0.0
    """Before the LoRA matrices; on a chat model's hundreds of them it takes a fifth of the time."""
    rate: float = 5e-4
    """The highest learning rate; it rises over the warm-up and falls to 0 on a cosine."""
    smoothing: float = 0.05
    """Share of a label's weight that all labels get, since labels are wrong now and then."""
    trust: float = 1.0
    """Share of a text's label that its teachers decide, where there are any; the label has the
    rest. Labels are wrong now and then, and do not say how sure one may be."""
    epochs: int = 3
    batch: int = 16
    """Texts that make one step."""
    warmup: float = 0.06
    """Share of the steps."""
    held_out: float = 0.05
    """Share of the texts that are never learnt from: early stopping and calibration use them."""
    checks: int = 2
    """How often in an epoch the held-out texts are classified."""
    patience: int = 4
    """After so many checks without a lower loss the training ends."""
    longest: int = 128
    """Tokens; of a longer text the end is cut off."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"There is no method {self.method!r}: {', '.join(METHODS)}.")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} must be from {low:g} to {high:g}, not {value:g}.")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
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
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError, UsageError: it is something else.
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
"""Where a method is best trained otherwise."""

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
