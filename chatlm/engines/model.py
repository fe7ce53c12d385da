"""What an engine needs of a model, however it is computed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from chatlm.errors import UsageError
from chatlm.types.sampling import Sampling

log = logging.getLogger(__name__)


class SequenceCache(Protocol):
    """The keys and values of one token sequence, growing."""

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Add a block of a prompt; returns the logits after its last token: (vocabulary,)."""
        ...

    def decode(self, ids: Sequence[int]) -> Tensor:
        """Add tokens that were just chosen, at most `at_once`.

        Returns:
            The logits after each: (tokens, vocabulary).
        """
        ...

    def truncate(self, length: int) -> bool:
        """Forget all tokens behind the first `length`; False where that cannot be done."""
        ...


@dataclass(frozen=True)
class ModelInfo:
    """What there is to know of a loaded model."""

    device: str
    """cpu, cuda:0, …, or several joined by +."""
    dtype: str
    """The numbers it computes with, as the screen shows them."""
    context_length: int
    """Positions it was made for."""
    eos_token_ids: tuple[int, ...]
    """Ids that end a reply."""
    recommended_sampling: Sampling
    """What its makers suggest."""
    notes: tuple[str, ...] = ()
    """What the person should know of how it was loaded."""


class LanguageModel(Protocol):
    """What reads tokens: a loaded model, with an adapter or without."""

    @property
    def device_type(self) -> str:
        """Type of the torch device that gives the logits."""
        ...

    @property
    def max_step_tokens(self) -> int:
        """So many tokens caches add at once for little more than one costs; at least 1. Where it
        is more, caches can be cut."""
        ...

    def new_cache(self) -> SequenceCache:
        """An empty one."""
        ...


class AdaptedModel(LanguageModel, Protocol):
    """A model with an adapter."""

    def close(self) -> None:
        """Free the adapter's memory; its caches are of no use afterwards."""
        ...


class Model(LanguageModel, Protocol):
    """A loaded model."""

    @property
    def info(self) -> ModelInfo:
        """What it is."""
        ...

    def decode(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> Tensor:
        """Add tokens to several caches at once; every number is what one at a time would give.

        Args:
            caches: different ones that this model, with adapters or without, gave.
            ids: for each of them; at most `at_once` in all.

        Returns:
            The logits after each token: (tokens, vocabulary).
        """
        ...

    def load_adapter(self, folder: Path) -> AdaptedModel:
        """The model with an adapter, without a copy of its weights.

        Args:
            folder: of the adapter, as peft writes it.

        Raises:
            Unsuitable: the adapter is more than this way of running the model can do.
            ValueError: it is damaged, or does not fit the model.
        """
        ...


class Unsupported(Exception):
    """A way of running models cannot do what is asked for; the message says why."""


def parse_eos_token_ids(value: Any) -> tuple[int, ...]:
    """The ids of an `eos_token_id`: one, several or none."""
    return tuple(value if isinstance(value, list) else [value] if value is not None else [])


def recommended_sampling(name: str, generation_config: Mapping[str, Any]) -> Sampling:
    """The sampling of a generation config, as far as chatlm can do it.

    Args:
        name: of the model, for the log.
        generation_config: the config's values.
    """
    out = Sampling()
    if generation_config.get("do_sample") is False and generation_config.get("temperature") is None:
        return out
    for key in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        try:
            out = Sampling.from_dict({key: generation_config.get(key)}).with_fallback(out)
        except UsageError as error:
            log.warning("%s: left out: %s", name, error.message)
    return out
