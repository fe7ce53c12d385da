"""What the lab's models share as `chatlm.Model`: they run on the processor, one token at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from chatlm import AdaptedModel, ModelInfo, Sampling, Unsupported
from chatlm_lab.tokenizer_kinds import UNKNOWN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTEXT_LENGTH = 32_768
"""Tokens of prompt and reply together; a model itself may look back less far."""


class LabModel(ABC):
    """A model that chatlm's engine samples from.

    Args:
        tokenizer: of the model; a token for unknown words is never generated.
        weights: what the model consists of, as the screen shows it.
        versions: of the libraries that compute it besides torch.
    """

    device_type = "cpu"
    max_step_tokens = 1
    max_draft_tokens = 0

    def __init__(
        self, tokenizer: Tokenizer, weights: str, versions: dict[str, str] | None = None
    ) -> None:
        self._never = tokenizer.token_to_id(UNKNOWN)
        self.info = ModelInfo(
            device="cpu",
            weights=weights,
            context_length=CONTEXT_LENGTH,
            eos_token_ids=(0,),
            recommended_sampling=Sampling(temperature=1.0, top_k=0, top_p=1.0, max_tokens=200),
            versions=versions or {},
        )

    @abstractmethod
    def new_cache(self) -> Any:
        """Return an empty sequence."""

    def decode(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Add tokens to several sequences."""
        return torch.cat([cache.decode(own) for cache, own in zip(caches, ids, strict=True)])

    def load_adapter(self, folder: Path) -> AdaptedModel:
        """Refuse an adapter.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("models of the lab take no adapters")

    def mask_unknown(self, logits: torch.Tensor) -> torch.Tensor:
        """Make the token for unknown words impossible, in place; return the logits."""
        if self._never is not None:
            logits[..., self._never] = -torch.inf
        return logits
