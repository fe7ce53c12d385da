"""How neural language models are trained: sizes, and settings of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chatlm import UsageError
from chatlm_lab.architectures import LabRecipe

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 64, "layers": 2, "heads": 4, "context": 64},
    "small": {"width": 128, "layers": 2, "heads": 8, "context": 128},
    "medium": {"width": 256, "layers": 4, "heads": 8, "context": 256},
}
"""Values of `--size`; the width, layers and heads of small are those of the book."""

Precision = Literal["float32", "bfloat16"]

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class NetworkRecipe(LabRecipe):
    """How a neural model is trained."""

    size: str = "tiny"
    """A key of `SIZES`, for what is not given: width, layers, heads, context."""
    width: int = 0
    """Numbers for each token; 0 for that of the size."""
    layers: int = 0
    """0 for those of the size."""
    context: int = 0
    """Tokens of a sequence that is trained on; 0 for those of the size."""
    params: int = 0
    """Parameters to have: the width is chosen so that there are about as many; 0 for no choice."""
    dropout: float = 0.0
    batch_size: int = 32
    """Sequences of a step."""
    epochs: float = 10.0
    """Passes over the data."""
    learning_rate: float = 3e-3
    """The highest, after the warm-up."""
    weight_decay: float = 0.1
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; a cosine follows, down to a tenth."""
    clip: float = 1.0
    """Largest norm of the gradients."""
    patience: int = 5
    """Evaluations without a lower held-out loss before training stops."""
    precision: Precision = "float32"
    """In which matrices are multiplied."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size not in SIZES:
            raise UsageError(f"--size must be {', '.join(SIZES)}, not {self.size!r}.")
        if self.params and self.width:
            raise UsageError("--params chooses the width, so --width has no meaning beside it.")
        for name, default in SIZES[self.size].items():
            if hasattr(self, name) and not getattr(self, name):
                object.__setattr__(self, name, default)
        limits: dict[str, tuple[float, float]] = {
            "width": (4, 4096),
            "layers": (1, 64),
            "context": (2, 4096),
            "params": (0, 10**9),
            "dropout": (0, 0.9),
            "batch_size": (1, 4096),
            "epochs": (0.001, 10_000),
            "learning_rate": (1e-6, 1),
            "weight_decay": (0, 1),
            "warmup": (0, 0.9),
            "clip": (0.001, 1000),
            "patience": (1, 10_000),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(
                    f"--{name.replace('_', '-')} must be {low:,} to {high:,}, not {value:g}."
                )
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision must be float32 or bfloat16, not {self.precision!r}.")

    @property
    def width_step(self) -> int:
        """The number that the width must be a multiple of."""
        return 4


@dataclass(frozen=True)
class RecurrentRecipe(NetworkRecipe):
    """How a recurrent model is trained."""


@dataclass(frozen=True)
class AttentionRecipe(NetworkRecipe):
    """How a model with attention is trained."""

    heads: int = 0
    """Of the attention; 0 for those of the size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.heads <= 256:
            raise UsageError(f"--heads must be 1 to 256, not {self.heads}.")
        if self.width % self.width_step and not self.params:
            raise UsageError(
                f"--width must be a multiple of {self.width_step} with {self.heads} heads, not "
                f"{self.width}."
            )

    @property
    def width_step(self) -> int:
        """The number that the width must be a multiple of: each head needs pairs for RoPE."""
        return 2 * self.heads


@dataclass(frozen=True)
class DecoderRecipe(AttentionRecipe):
    """How the book's decoder is trained."""

    window: int = 0
    """Tokens that each one may see; 0 for as many as the context."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.window:
            object.__setattr__(self, "window", self.context)
        if not 1 <= self.window <= self.context:
            raise UsageError(f"--window must be 1 to {self.context}, not {self.window}.")


@dataclass(frozen=True)
class LlamaRecipe(AttentionRecipe):
    """How a decoder in Llama's form is trained."""

    kv_heads: int = 0
    """Heads of keys and values; 0 for half of the heads, where these are even."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kv_heads:
            shared = 2 if self.heads % 2 == 0 else 1
            object.__setattr__(self, "kv_heads", self.heads // shared)
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise UsageError(
                f"--kv-heads must divide the {self.heads} heads, which {self.kv_heads} does not."
            )


def restore_recipe(kind: type[NetworkRecipe], values: Mapping[str, Any]) -> NetworkRecipe:
    """Restore a recipe from the settings of a card.

    Raises:
        ValueError: they are not those of a recipe.
    """
    try:
        return kind(**values)
    except (TypeError, UsageError) as error:
        raise ValueError("its card has settings that are no recipe") from error
