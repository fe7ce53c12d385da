"""The reader's network: a BERT encoder and a linear head for each statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from chatlm_rag.reading.windows import Window


class ReaderNetwork(nn.Module):
    """Scores the statements of windows, and that none of them answers.

    The score of a statement is the mean of one value of its tokens plus the maximum of another;
    that of "none" depends on the first token.

    Args:
        encoder: BERT, or with adapters around it.
        hidden_size: of the encoder.
    """

    def __init__(self, encoder: Any, hidden_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.answer = nn.Linear(hidden_size, 2)
        self.none = nn.Linear(hidden_size, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Return scores, `(windows, 1 + statements)`: first of "none", then of each statement;
        minus infinity where a window has fewer statements."""
        states = self.encoder(
            input_ids=batch.ids, token_type_ids=batch.types, attention_mask=batch.mask
        ).last_hidden_state.float()
        inside = batch.inside
        with torch.autocast(states.device.type, enabled=False):
            average, highest = self.answer(states).unbind(2)
            none = self.none(states[:, 0])
        mean = (inside * average.unsqueeze(1)).sum(2) / inside.sum(2).clamp(min=1)
        maximum = highest.unsqueeze(1).masked_fill(~inside, -1e4).amax(2)
        scores = (mean + maximum).masked_fill(~inside.any(2), -torch.inf)
        return torch.cat([none, scores], 1)


class Batch:
    """Windows as tensors, padded to the longest.

    Args:
        windows: at least one.
        pad: id of the padding token.
    """

    def __init__(self, windows: Sequence[Window], pad: int = 0) -> None:
        length = max(len(window.ids) for window in windows)
        most = max(len(window.spans) for window in windows)
        self.ids = torch.full((len(windows), length), pad)
        self.types = torch.zeros((len(windows), length), dtype=torch.long)
        self.mask = torch.zeros((len(windows), length), dtype=torch.long)
        self.inside = torch.zeros((len(windows), most, length), dtype=torch.bool)
        """Which tokens belong to each statement, `(windows, statements, tokens)`."""
        for row, window in enumerate(windows):
            size = len(window.ids)
            self.ids[row, :size] = torch.tensor(window.ids)
            self.types[row, :size] = torch.tensor(window.types)
            self.mask[row, :size] = 1
            for column, (_, start, end) in enumerate(window.spans):
                self.inside[row, column, start:end] = True
