"""How an adapter is trained: every setting, with its range; knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chatlm import UsageError
from chatlm_lora.lora_config import HIGHEST_RANK

ALL_LINEAR = "all-linear"
"""Stands for every linear layer but the output, whatever the model calls them."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training.

    Raises:
        UsageError: one is out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    """The matrices' product is multiplied by alpha / rank."""
    dropout: float = 0.05
    targets: tuple[str, ...] = (ALL_LINEAR,)
    """Ends of names of modules."""
    rate: float = 3e-4
    """The highest learning rate; it rises over the warm-up and falls to 0 on a cosine."""
    epochs: float = 3.0
    batch: int = 8
    """Examples that are computed at once, on each device."""
    accumulation: int = 1
    """Batches that make one step."""
    warmup: float = 0.05
    """Share of the steps."""
    held_out: float = 0.1
    """Share of the examples that are never trained on."""
    checks: int = 4
    """How often in an epoch the held-out loss is measured and a checkpoint kept."""
    patience: int = 3
    """After so many checks without a lower held-out loss the training ends."""
    longest: int = 1024
    """Tokens; longer examples are left out."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} must be from {low:g} to {high:g}, not {value:g}.")
        if not self.targets:
            raise UsageError("At least one target module is needed.")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "targets": list(self.targets),
            "rate": self.rate,
            "epochs": self.epochs,
            "batch": self.batch,
            "accumulation": self.accumulation,
            "warmup": self.warmup,
            "held_out": self.held_out,
            "checks": self.checks,
            "patience": self.patience,
            "longest": self.longest,
            "seed": self.seed,
        }


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("rank", 1, HIGHEST_RANK),
    ("alpha", 0.01, 10_000),
    ("dropout", 0, 0.9),
    ("rate", 1e-8, 1),
    ("epochs", 0.01, 1000),
    ("batch", 1, 4096),
    ("accumulation", 1, 4096),
    ("warmup", 0, 1),
    ("held_out", 0.001, 0.9),
    ("checks", 1, 1000),
    ("patience", 1, 1000),
    ("longest", 8, 1_000_000),
    ("seed", 0, 2**32 - 1),
)
