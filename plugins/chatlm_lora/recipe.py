"""Hyperparameters; training order and encoded data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from chatlm import ChatEncoder, ModelLocation, UsageError
from chatlm_lora.adapter_files import MAX_RANK
from chatlm_lora.dataset import ChatDataset, ChatExample, EncodedChats

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
    ("rank", 1, MAX_RANK),
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


SAMPLE_ANSWERS = 4
"""Held-out prompts that are answered before and after."""


@dataclass(frozen=True)
class TrainingJob:
    """What is to be trained, on what, and how."""

    name: str
    base: ModelLocation
    dataset: ChatDataset
    recipe: Recipe
    prompt_format: str = "auto"
    description: str = ""
    licence: str = ""
    """Of the data."""
    command: str = ""
    """What the person typed, for the card."""
    use_cpu: bool = False
    """Whether the processor trains, else a GPU."""

    def plan(self) -> dict[str, Any]:
        """All that decides what the training does."""
        return {
            "base": self.base.name,
            "data": self.dataset.sha256,
            "recipe": self.recipe.to_dict(),
            "prompt_format": self.prompt_format,
            "examples": [len(self.dataset.train), len(self.dataset.held_out)],
            "first": [message.text for message in self.dataset.train[0]],  # shows --ask, --system
        }


@dataclass(frozen=True)
class PreparedData:
    """The data as the model reads it."""

    encoder: ChatEncoder
    train: EncodedChats
    held_out: EncodedChats
    sample_examples: tuple[ChatExample, ...]
    """The held-out ones that are answered before and after."""
    total_steps: int
    """Of the whole training."""
    eval_steps: int
    """Steps between two checks."""


def prepare_data(job: TrainingJob, num_processes: int) -> PreparedData:
    """Encode the examples and count the steps; loads the tokenizer only.

    Args:
        job: what to train.
        num_processes: that share each step.

    Raises:
        UsageError: no example is short enough.
        ModelError: the model has no tokenizer that can be used.
    """
    recipe, data = job.recipe, job.dataset
    encoder = ChatEncoder(job.base, job.prompt_format)
    train = EncodedChats(data.train, encoder, recipe.longest)
    held_out = EncodedChats(data.held_out, encoder, recipe.longest)
    held_out.sort_by_length()
    if not len(train) or not len(held_out):
        raise UsageError(
            f"No example has at most {recipe.longest} tokens, or all of them are held out.",
            hint="Raise --longest, or give more examples.",
        )
    rows = recipe.batch * recipe.accumulation * num_processes
    an_epoch = math.ceil(len(train) / rows)
    return PreparedData(
        encoder=encoder,
        train=train,
        held_out=held_out,
        sample_examples=data.held_out[:SAMPLE_ANSWERS],
        total_steps=math.ceil(an_epoch * recipe.epochs),
        eval_steps=max(an_epoch // recipe.checks, 1),
    )
