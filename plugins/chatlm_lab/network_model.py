"""A neural network of the lab as a `chatlm.Model`, and as what predicts a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chatlm_lab.engine_model import LabModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from chatlm_lab.network import LanguageNetwork, State
    from chatlm_lab.tokenizer_kinds import Ids

BATCH_TOKENS = 4096
"""Tokens that are evaluated at once."""


class NetworkModel(LabModel):
    """A network that chatlm's engine samples from.

    Args:
        network: the network.
        tokenizer: of the model.
    """

    def __init__(self, network: LanguageNetwork, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, "32-bit, torch")
        self.network = network.eval()

    def new_cache(self) -> NetworkCache:
        """Return an empty sequence."""
        return NetworkCache(self)


class NetworkCache:
    """The state of a network after one sequence of tokens.

    Where the state does not tell what it was before, those after each call are kept, which for a
    recurrent layer are a few vectors.

    Args:
        model: computes the logits.
    """

    def __init__(self, model: NetworkModel) -> None:
        self._model = model
        self._states: list[tuple[int, State]] = [(0, ())]

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Add a block of a prompt; return the logits after it: (vocabulary,)."""
        return self._add(ids)[-1]

    def decode(self, ids: Sequence[int]) -> Tensor:
        """Add generated tokens; return the logits after each: (tokens, vocabulary)."""
        return self._add(ids)

    def truncate(self, length: int) -> int:
        """Keep the first tokens only, at most `length`; return how many are kept."""
        newest, state = self._states[-1]
        if length < newest and state:
            cut = self._model.network.cut_state(state, length)
            if cut is not None:
                self._states = [(0, ())] + ([(length, cut)] if length else [])
        while self._states[-1][0] > length:
            self._states.pop()
        return self._states[-1][0]

    @torch.inference_mode()
    def _add(self, ids: Sequence[int]) -> Tensor:
        length, state = self._states[-1]
        network = self._model.network
        logits, state = network(torch.tensor([list(ids)]), state)
        if network.cut_state(state, 0) is not None:
            self._states = self._states[:1]  # the newest state has all earlier ones
        self._states.append((length + len(ids), state))
        return self._model.mask_unknown(logits[0].float())


class NetworkPredictor:
    """The probabilities that a network gives the tokens of a text.

    The text is read in windows of the context that the network was trained with. They overlap by
    half, so that each token but the first ones has half a context or more before it, and every
    architecture sees the same.

    Args:
        network: its mode is changed to evaluation.
        context: tokens of a window.
    """

    def __init__(self, network: LanguageNetwork, context: int) -> None:
        self._network, self._context = network, context

    @torch.inference_mode()
    def log_probabilities(self, ids: Ids) -> Any:
        """Return the logarithm of the probability of each token; that of the first is 0."""
        self._network.eval()
        stream = torch.from_numpy(ids.astype(np.int64))
        found: NDArray[np.float64] = np.zeros(len(ids))
        for starts, length in self._batches(len(ids) - 1):
            rows = torch.stack([stream[start : start + length + 1] for start in starts])
            logits = self._network(rows[:, :-1])[0].float()
            chosen = logits.log_softmax(-1).gather(-1, rows[:, 1:, None])[..., 0].double().numpy()
            for start, values in zip(starts, chosen, strict=True):
                new = length // 2 if start else 0  # those before are in the window before
                found[start + 1 + new : start + 1 + length] = values[new:]
        return found

    def mean_sum(self, ids: Ids, places: Sequence[int]) -> float:
        """Return 1, which a softmax sums to."""
        return 1.0

    def _batches(self, targets: int) -> Iterator[tuple[list[int], int]]:
        """Yield the starts of windows with their length, in tokens that are predicted."""
        length = min(self._context, targets)
        step = max(length - length // 2, 1)
        starts = [*range(0, targets - length, step), targets - length]
        size = max(BATCH_TOKENS // length, 1)
        for first in range(0, len(starts), size):
            yield starts[first : first + size], length
