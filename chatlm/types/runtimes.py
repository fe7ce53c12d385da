"""What a plugin needs to run GGUF files in its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm.types.sampling import Sampling


@dataclass(frozen=True)
class StoredLinear:
    """Where a GGUF file has the weights of a linear layer."""

    tensor: str
    """Name in the file."""
    heads: int = 0
    """Number of heads whose rows are in the order of interleaved rotation; 0 for the order that
    transformers has."""


def _unknown_linear(module: str) -> StoredLinear | None:
    return None


@dataclass(frozen=True)
class Mmproj:
    """A GGUF file with the vision encoder of a model in another file."""

    path: Path
    projector: str
    """Type of what connects both, such as `gemma3`; empty where the file does not say."""


@dataclass(frozen=True)
class GgufModel:
    """A language model in a GGUF file."""

    name: str
    """As the user calls it."""
    path: Path
    """The file; the first one of a split model."""
    context: int | None = None
    """Limit of the context in tokens; None for the model's own."""
    eos_token_ids: tuple[int, ...] = ()
    """Ids of the tokens that end a reply."""
    recommended_sampling: Sampling = field(default_factory=Sampling)
    """The sampling that the file recommends."""
    tensors: Mapping[str, int] = field(default_factory=dict)
    """Size of each tensor in bytes, by name."""
    find_linear: Callable[[str], StoredLinear | None] = _unknown_linear
    """Finds a linear layer by its name in transformers, such as `model.layers.0.mlp.up_proj`; None
    if the file does not hold it as it is."""
    mmproj: Mmproj | None = None
    """What lets it read images; None if there is nothing."""


GgufRuntime = Callable[[GgufModel], Any]
"""Loads a GGUF file; returns a `chatlm.Model`.

Raises `chatlm.Unsupported` if it cannot run the model; the message says why."""
