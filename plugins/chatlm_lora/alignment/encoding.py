"""Encoded pairs: what is trained on, as batches of tensors, with the base's log-likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from chatlm import ChatEncoder, UsageError
from chatlm_lora.alignment.pairs import PreferencePair
from chatlm_lora.dataset import (
    IGNORE_INDEX,
    ChatExample,
    Collator,
    EncodedExample,
)
from chatlm_lora.peft_utils import training_dtypes

SIDES = ("chosen", "rejected", "mismatched")
"""The replies of a pair; `mismatched` replies to another prompt, where the method needs it."""

PairItem = dict[str, Any]
"""`input_ids` of the chosen chat, by whose length batches are grouped, an `EncodedExample` by side
under `chats`, and the base's log-likelihoods by side under `base`, as soon as they are known."""


class EncodedPairs(Dataset[PairItem]):
    """Encoded pairs with labels for the tokens of the replies to compare.

    Args:
        pairs: the pairs.
        encoder: the model's encoder.
        max_tokens: pairs with a longer chat are left out.
        mismatched: whether each pair also gets the chosen reply to another prompt.

    Raises:
        UsageError: `mismatched`, and all pairs have the same prompt.
    """

    def __init__(
        self,
        pairs: Sequence[PreferencePair],
        encoder: ChatEncoder,
        max_tokens: int,
        *,
        mismatched: bool = False,
    ) -> None:
        self.items: list[PairItem] = []
        for index, pair in enumerate(pairs):
            replies = {"chosen": pair.chosen, "rejected": pair.rejected}
            if mismatched:
                replies["mismatched"] = _other_reply(pairs, index)
            chats = {
                side: _encode_reply(pair.prompt, reply, encoder) for side, reply in replies.items()
            }
            if all(len(chat["input_ids"]) <= max_tokens for chat in chats.values()):
                item = {"input_ids": chats["chosen"]["input_ids"], "chats": chats, "base": {}}
                self.items.append(item)
        self.too_long = len(pairs) - len(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> PairItem:
        return self.items[index]

    @property
    def total_tokens(self) -> int:
        """Tokens of both chats of all pairs."""
        return sum(
            len(item["chats"][side]["input_ids"]) for item in self.items for side in SIDES[:2]
        )

    def sort_by_length(self) -> None:
        """Sort by length, so that batches need little padding."""
        self.items.sort(key=lambda item: len(item["input_ids"]))


def _other_reply(pairs: Sequence[PreferencePair], index: int) -> ChatExample:
    """Return the chosen reply of the next pair with another prompt."""
    for step in range(1, len(pairs)):
        other = pairs[(index + step) % len(pairs)]
        if other.prompt != pairs[index].prompt:
            return other.chosen
    raise UsageError(
        "kto needs pairs of several prompts.", hint="Give more pairs, or use --method dpo."
    )


def _encode_reply(prompt: ChatExample, reply: ChatExample, encoder: ChatEncoder) -> EncodedExample:
    """Encode a chat with labels for the replies after the prompt only."""
    chat = encoder.encode_chat((*prompt, *reply))
    earlier = sum(message.role == "assistant" for message in prompt)
    labels = []
    replies, inside = 0, False
    for number, is_reply in zip(chat.ids, chat.assistant_mask, strict=True):
        replies += is_reply and not inside
        inside = is_reply
        labels.append(number if is_reply and replies > earlier else IGNORE_INDEX)
    return {"input_ids": list(chat.ids), "labels": labels}


class PairCollator:
    """Batches pairs: the rows of all chosen chats, then those of all rejected ones.

    Args:
        pad_token_id: any id, since padding is masked.
        chosen_only: leave the rejected chats out, for a method that does not read them.
    """

    def __init__(self, pad_token_id: int, *, chosen_only: bool = False) -> None:
        self._collator = Collator(pad_token_id)
        self._sides = SIDES[:1] if chosen_only else SIDES[:2]

    def __call__(self, items: Sequence[PairItem]) -> dict[str, Any]:
        """Return the tensors of `Collator`, and `base` of shape (rows,).

        `mismatched` has the same of the mismatched chats, where the pairs have them.
        """
        batch = self.rows(items, self._sides)
        batch["base"] = _base_values(items, self._sides)
        if "mismatched" in items[0]["chats"]:
            others = self.rows(items, SIDES[2:])
            batch["mismatched"] = others | {"base": _base_values(items, SIDES[2:])}
        return batch

    def rows(self, items: Sequence[PairItem], sides: Sequence[str]) -> dict[str, Any]:
        """Return the tensors of `Collator` for all chats of the first side, then of the next."""
        return self._collator([item["chats"][side] for side in sides for item in items])


def _base_values(items: Sequence[PairItem], sides: Sequence[str]) -> torch.Tensor:
    return torch.tensor([item["base"][side] for side in sides for item in items])


def precision(device: torch.device) -> torch.autocast:
    """Return the context in which training computes, so that the base is rounded alike."""
    mixed = training_dtypes(device.type == "cpu").mixed_precision
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch with its tensors on a device."""
    return {
        key: value.to(device) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def compute_logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the logits that predict `targets`, of shape (rows, columns, vocabulary)."""
    inputs = ("input_ids", "attention_mask", "position_ids", "logits_to_keep")
    logits: torch.Tensor = model(**{key: batch[key] for key in inputs}).logits
    return logits[:, :-1].float()


def targets(batch: dict[str, Any]) -> torch.Tensor:
    """Return the tokens to predict, of shape (rows, columns); `IGNORE_INDEX` elsewhere."""
    labels: torch.Tensor = batch["labels"]
    return labels[:, 1:]


def reply_logprobs(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-likelihood of each row's reply in nats, and its number of tokens."""
    logits, wanted = compute_logits(model, batch), targets(batch)
    losses = cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        wanted.reshape(-1),
        ignore_index=IGNORE_INDEX,
        reduction="none",
    )
    return -losses.view(wanted.shape).sum(1), (wanted != IGNORE_INDEX).sum(1)


def add_base_logprobs(
    model: Any,
    pairs: EncodedPairs,
    collator: PairCollator,
    batch_size: int,
    report: Callable[[int, int], None],
) -> None:
    """Compute the base's log-likelihoods of all replies, unless they are known.

    Args:
        model: a `PeftModel`; it is left in evaluation mode.
        pairs: get the result.
        collator: makes the batches.
        batch_size: pairs per batch.
        report: called with the number of pairs done and that of all.
    """
    missing = [item for item in pairs.items if not item["base"]]
    if not missing:
        return
    model.eval()
    with model.disable_adapter(), precision(model.device), torch.no_grad():
        for start in range(0, len(missing), batch_size):
            report(start, len(missing))
            items = missing[start : start + batch_size]
            # the rows of an evaluation, since rounding depends on a batch's shape
            for sides in (SIDES[:2], SIDES[2:]):
                if sides[0] not in items[0]["chats"]:
                    continue
                batch = to_device(collator.rows(items, sides), model.device)
                values = iter(reply_logprobs(model, batch)[0].tolist())
                for side in sides:
                    for item in items:
                        item["base"][side] = next(values)
