"""Hyperparameters, the training job, and its encoded data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm import Artifact, ChatEncoder, ModelLocation, UsageError
from chatlm_lora.adapter_files import CONFIG_FILE, MAX_RANK, WEIGHTS_FILE, read_config
from chatlm_lora.card import read_card
from chatlm_lora.dataset import EncodedData, TrainingData

ALL_LINEAR = "all-linear"
"""peft's name for every linear layer except the output."""


_FORMER_NAMES = {
    "rate": "learning_rate",
    "batch": "batch_size",
    "accumulation": "gradient_accumulation",
    "warmup": "warmup_ratio",
    "checks": "evals_per_epoch",
    "longest": "max_length",
}
"""Former names of fields, in cards that were written then -> their names now."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run.

    Raises:
        UsageError: a value is out of range.
    """

    rank: int = 8
    alpha: float = 16.0
    """The product of the matrices is scaled by alpha / rank."""
    dropout: float = 0.05
    targets: tuple[str, ...] = (ALL_LINEAR,)
    """Suffixes of module names."""
    learning_rate: float = 3e-4
    """Peak learning rate: linear warm-up, then cosine decay to 0."""
    epochs: float = 3.0
    batch_size: int = 8
    """Examples per batch on each device."""
    gradient_accumulation: int = 1
    """Gradient accumulation: batches per step."""
    warmup_ratio: float = 0.05
    """Share of the steps."""
    held_out: float = 0.1
    """Share of the examples held out for evaluation."""
    evals_per_epoch: int = 4
    """Evaluations, each with a checkpoint, per epoch."""
    patience: int = 3
    """Evaluations without a lower held-out loss before training stops early."""
    max_length: int = 1024
    """Maximum tokens per example; longer ones are left out."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} must be from {low:g} to {high:g}, not {value:g}.")
        if not self.targets:
            raise UsageError("At least one target module is needed.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Restore from some of the values of `to_dict`; the others have their defaults."""
        named = {_FORMER_NAMES.get(name, name): value for name, value in values.items()}
        return cls(**{**named, "targets": tuple(named.get("targets", (ALL_LINEAR,)))})

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "targets": list(self.targets),
            "learning_rate": self.learning_rate,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "gradient_accumulation": self.gradient_accumulation,
            "warmup_ratio": self.warmup_ratio,
            "held_out": self.held_out,
            "evals_per_epoch": self.evals_per_epoch,
            "patience": self.patience,
            "max_length": self.max_length,
            "seed": self.seed,
        }


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("rank", 1, MAX_RANK),
    ("alpha", 0.01, 10_000),
    ("dropout", 0, 0.9),
    ("learning_rate", 1e-8, 1),
    ("epochs", 0.01, 1000),
    ("batch_size", 1, 4096),
    ("gradient_accumulation", 1, 4096),
    ("warmup_ratio", 0, 1),
    ("held_out", 0.001, 0.9),
    ("evals_per_epoch", 1, 1000),
    ("patience", 1, 1000),
    ("max_length", 8, 1_000_000),
    ("seed", 0, 2**32 - 1),
)


@dataclass(frozen=True)
class StartingAdapter:
    """An adapter whose training is continued on other data."""

    name: str
    folder: Path
    sha256: str
    """Of its weights."""
    history: Mapping[str, Any]
    """Its name and, if it has a card, how it was made."""

    @classmethod
    def of(cls, adapter: Artifact) -> StartingAdapter:
        """Describe an adapter that was checked."""
        weights = (adapter.path / WEIGHTS_FILE).read_bytes()
        history: dict[str, Any] = {"name": adapter.name}
        if (card := read_card(adapter.path)) is not None:
            history |= {"command": card.command, **card.source}
        return cls(adapter.name, adapter.path, hashlib.sha256(weights).hexdigest(), history)

    def shape(self) -> dict[str, Any]:
        """Return rank, alpha and target modules, as `Recipe` has them."""
        config = read_config(self.folder / CONFIG_FILE)
        targets = config.target_modules
        return {
            "rank": config.rank,
            "alpha": config.alpha,
            "targets": (targets,) if isinstance(targets, str) else targets,
        }


@dataclass(frozen=True)
class TrainingJob:
    """One adapter to train: name, base model, data and hyperparameters."""

    name: str
    base: ModelLocation
    dataset: TrainingData
    recipe: Recipe
    prompt_format: str = "auto"
    description: str = ""
    licence: str = ""
    """Licence of the data."""
    command: str = ""
    """The command line, for the card."""
    use_cpu: bool = False
    """Train on the CPU, even if there is a GPU."""
    start: StartingAdapter | None = None
    """Whose weights training starts from; None for new ones."""

    def plan(self) -> dict[str, Any]:
        """Return everything that determines the result; a run resumes only if it is equal."""
        plan = self.dataset.plan()
        return {
            **({"start": self.start.sha256} if self.start else {}),
            "base": self.base.name,
            "data": plan.pop("data"),  # the order in which earlier versions wrote it
            "recipe": self.recipe.to_dict(),
            "prompt_format": self.prompt_format,
            **plan,
        }


@dataclass(frozen=True)
class PreparedData:
    """The encoded data, and the number of steps."""

    encoder: ChatEncoder
    examples: EncodedData
    total_steps: int
    """Steps of the whole run."""
    eval_steps: int
    """Steps between two evaluations."""


def prepare_data(job: TrainingJob, num_processes: int) -> PreparedData:
    """Encode the examples and count the steps; only the tokenizer is loaded.

    Args:
        job: what to train.
        num_processes: processes that share each step.

    Raises:
        UsageError: no example is short enough.
        ModelError: the model's tokenizer cannot be used.
    """
    recipe = job.recipe
    encoder = ChatEncoder(job.base, job.prompt_format)
    examples = job.dataset.encode(encoder, recipe.max_length, recipe.batch_size)
    if not examples.train_count or not examples.held_out_count:
        raise UsageError(
            f"No example has at most {recipe.max_length} tokens, or all of them are held out.",
            hint="Raise --max-length, or give more examples.",
        )
    rows = recipe.batch_size * recipe.gradient_accumulation * num_processes
    an_epoch = math.ceil(examples.train_count / rows)
    return PreparedData(
        encoder=encoder,
        examples=examples,
        total_steps=math.ceil(an_epoch * recipe.epochs),
        eval_steps=max(an_epoch // recipe.evals_per_epoch, 1),
    )
