"""Makes batches of chats in which only what the assistant says counts; knows no trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from chatlm import ChatEncoder
from chatlm_lora.examples import Example

NOT_COUNTED = -100
"""The label of a token that does not take part in the loss."""

Item = dict[str, list[int]]
"""`input_ids` and `labels`, of one length."""


class Chats(Dataset[Item]):
    """Encoded examples.

    Args:
        examples: to encode.
        encoder: of the model.
        longest: tokens; a longer example is left out.
    """

    def __init__(self, examples: Sequence[Example], encoder: ChatEncoder, longest: int) -> None:
        encoded = [_item(example, encoder) for example in examples]
        self.items = [item for item in encoded if len(item["input_ids"]) <= longest]
        self.left_out = len(encoded) - len(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    @property
    def tokens(self) -> int:
        """Tokens of all examples together."""
        return sum(len(item["input_ids"]) for item in self.items)

    def sort(self) -> None:
        """Put the shortest first, so that batches in order need little padding."""
        self.items.sort(key=lambda item: len(item["input_ids"]))


def _item(example: Example, encoder: ChatEncoder) -> Item:
    chat = encoder.chat(example)
    labels = [
        number if said else NOT_COUNTED for number, said in zip(chat.ids, chat.spoken, strict=True)
    ]
    return {"input_ids": list(chat.ids), "labels": labels}


class Collator:
    """Pads items on the left, so that what the assistant says stands at the end of each row.

    Then the model needs to compute the logits of the last columns only (`logits_to_keep`), which
    `labels` are cut to: with a large vocabulary that is a good part of the work.

    Args:
        pad: the id to fill with; it is masked, so any will do.
    """

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Tensors of shape (rows, columns), but `labels` of shape (rows, `logits_to_keep`)."""
        width = max(len(item["input_ids"]) for item in items)
        ids = torch.full((len(items), width), self._pad)
        labels = torch.full((len(items), width), NOT_COUNTED)
        mask = torch.zeros((len(items), width), dtype=torch.long)
        for row, item in enumerate(items):
            start = width - len(item["input_ids"])
            ids[row, start:] = torch.tensor(item["input_ids"])
            labels[row, start:] = torch.tensor(item["labels"])
            mask[row, start:] = 1
        first = int((labels != NOT_COUNTED).any(0).nonzero()[0])
        kept = min(width - first + 1, width)  # each label is foretold one column before
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
            "labels": labels[:, -kept:],
            "logits_to_keep": kept,
        }


def loss_of(model: Any, chats: Chats, collator: Collator, rows: int) -> float:
    """Mean cross-entropy in nats over all tokens that the assistant says.

    Args:
        model: a causal language model of transformers, which is left in evaluation mode.
        chats: at least one.
        collator: makes the batches.
        rows: of a batch.
    """
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in _batches(chats, collator, rows):
            said = int((batch["labels"][:, 1:] != NOT_COUNTED).sum())
            on_device = {
                key: value.to(model.device) if isinstance(value, torch.Tensor) else value
                for key, value in batch.items()
            }
            total += float(model(**on_device).loss) * said
            count += said
    return total / count


def _batches(chats: Chats, collator: Collator, rows: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(chats), rows):
        yield collator(chats.items[start : start + rows])
