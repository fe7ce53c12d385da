"""A count-based model as a `chatlm.Model`: chatlm's engine samples from it like from any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chatlm import AdaptedModel, ModelInfo, Sampling, Unsupported
from chatlm_lab.tokenizer_kinds import UNKNOWN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from chatlm_lab.smoothing import Smoothing

CONTEXT_LENGTH = 32_768
"""Tokens of prompt and reply together; the model itself reads only the last few."""


class NgramModel:
    """A model whose logits are the logarithms of smoothed probabilities.

    Args:
        smoothing: gives the probabilities.
        tokenizer: of the model; a token for unknown words is never generated.
    """

    device_type = "cpu"
    max_step_tokens = 1
    max_draft_tokens = 0

    def __init__(self, smoothing: Smoothing, tokenizer: Tokenizer) -> None:
        self.smoothing = smoothing
        self.never = tokenizer.token_to_id(UNKNOWN)
        self.info = ModelInfo(
            device="cpu",
            weights="counts of n-grams",
            context_length=CONTEXT_LENGTH,
            eos_token_ids=(0,),
            recommended_sampling=Sampling(temperature=1.0, top_k=0, top_p=1.0, max_tokens=200),
            versions={"numpy": np.__version__},
        )

    def new_cache(self) -> NgramCache:
        """Return an empty sequence."""
        return NgramCache(self)

    def decode(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Add tokens to several sequences."""
        return torch.cat([cache.decode(own) for cache, own in zip(caches, ids, strict=True)])

    def load_adapter(self, folder: Path) -> AdaptedModel:
        """Refuse an adapter.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("a count-based model has no weights to adapt")

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Return the logarithms of the probabilities after a context: (vocabulary,)."""
        recent = np.array(ids[max(len(ids) - self.smoothing.order + 1, 0) :], np.uint32)
        found = torch.from_numpy(np.log(self.smoothing.distribution(recent))).float()
        if self.never is not None:
            found[self.never] = -torch.inf
        return found


class NgramCache:
    """The tokens of one sequence.

    Args:
        model: computes the logits.
    """

    def __init__(self, model: NgramModel) -> None:
        self._model = model
        self._ids: list[int] = []

    def prefill(self, ids: Sequence[int]) -> torch.Tensor:
        """Add a block of a prompt; return the logits after it: (vocabulary,)."""
        self._ids += ids
        return self._model.logits(self._ids)

    def decode(self, ids: Sequence[int]) -> torch.Tensor:
        """Add generated tokens; return the logits after each: (tokens, vocabulary)."""
        rows = []
        for token in ids:
            self._ids.append(token)
            rows.append(self._model.logits(self._ids))
        return torch.stack(rows)

    def truncate(self, length: int) -> int:
        """Keep the first tokens only, at most `length`."""
        del self._ids[length:]
        return len(self._ids)
