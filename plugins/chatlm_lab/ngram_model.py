"""A count-based model as a `chatlm.Model`: chatlm's engine samples from it like from any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from chatlm_lab.engine_model import LabModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from chatlm_lab.smoothing import Smoothing


class NgramModel(LabModel):
    """A model whose logits are the logarithms of smoothed probabilities.

    Args:
        smoothing: gives the probabilities.
        tokenizer: of the model.
    """

    def __init__(self, smoothing: Smoothing, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, "counts of n-grams", {"numpy": np.__version__})
        self._smoothing = smoothing

    def new_cache(self) -> NgramCache:
        """Return an empty sequence."""
        return NgramCache(self)

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Return the logarithms of the probabilities after a context: (vocabulary,)."""
        recent = np.array(ids[max(len(ids) - self._smoothing.order + 1, 0) :], np.uint32)
        found = torch.from_numpy(np.log(self._smoothing.distribution(recent))).float()
        return self.mask_unknown(found)


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
