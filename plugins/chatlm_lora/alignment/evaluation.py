"""Evaluate a model on held-out pairs: loss, reward accuracy and margin, KL, length of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from chatlm_lora.alignment.encoding import (
    EncodedPairs,
    PairCollator,
    compute_logits,
    precision,
    reply_logprobs,
    targets,
    to_device,
)
from chatlm_lora.alignment.objectives import Objective, ReplyLogprobs, pair_losses
from chatlm_lora.dataset import IGNORE_INDEX, Evaluation

MAX_ANSWER_TOKENS = 160
"""Answers whose length is measured are cut here."""


def evaluate_preferences(
    model: Any,
    pairs: EncodedPairs,
    objective: Objective,
    collator: PairCollator,
    batch_size: int,
    prompts: Sequence[Sequence[int]],
    eos_token_id: int,
) -> Evaluation:
    """Return the loss on pairs, and these measures.

    - `accuracy`: share of the pairs whose chosen reply gained more likelihood over the base than
      the rejected one, ties counted as half
    - `margin`: by how much more, mean over the pairs, in nats per reply
    - `KL`: KL divergence of the next-token distribution from the base's, mean over the tokens of
      the chosen replies, in nats
    - `answer_tokens`: mean length of greedy answers, cut at `MAX_ANSWER_TOKENS`

    Args:
        model: a `PeftModel`; it is left in evaluation mode.
        pairs: at least one, whose base log-likelihoods are known.
        objective: the method.
        collator: makes the batches.
        batch_size: pairs per batch.
        prompts: token ids of the prompts to answer.
        eos_token_id: ends an answer.
    """
    model.eval()
    loss, right, margin, divergence, tokens = 0.0, 0.0, 0.0, 0.0, 0
    with precision(model.device), torch.no_grad():
        for start in range(0, len(pairs), batch_size):
            items = pairs.items[start : start + batch_size]
            batch = collator(items)
            chosen, rejected = split_rows(model, batch)
            mismatched = mismatched_replies(model, batch)
            loss += float(pair_losses(objective, chosen, rejected, mismatched).sum())
            gains = chosen.ratio(mean=False) - rejected.ratio(mean=False)
            right += float((gains > 0).sum() + (gains == 0).sum() / 2)
            margin += float(gains.sum())
            chosen_batch = to_device(collator.rows(items, ("chosen",)), model.device)
            gone, count = _divergence(model, chosen_batch)
            divergence += gone
            tokens += count
        length = _mean_answer_length(model, prompts, eos_token_id)
    measures = {
        "accuracy": right / len(pairs),
        "margin": margin / len(pairs),
        "KL": divergence / tokens,
        "answer_tokens": length,
    }
    return Evaluation(loss / len(pairs), measures)


def split_rows(model: Any, batch: dict[str, Any]) -> tuple[ReplyLogprobs, ReplyLogprobs]:
    """Return the log-likelihoods of the chosen and the rejected rows of a batch."""
    on_device = to_device(batch, _device(model, batch))
    total, tokens = reply_logprobs(model, on_device)
    sides = zip(total.chunk(2), on_device["base"].chunk(2), tokens.chunk(2), strict=True)
    chosen, rejected = (ReplyLogprobs(*side) for side in sides)
    return chosen, rejected


def mismatched_replies(model: Any, batch: dict[str, Any]) -> ReplyLogprobs | None:
    """Return the log-likelihoods of the mismatched rows, without gradient; None without any."""
    if "mismatched" not in batch:
        return None
    rows = to_device(batch["mismatched"], _device(model, batch))
    with torch.no_grad():
        total, tokens = reply_logprobs(model, rows)
    return ReplyLogprobs(total, rows["base"], tokens)


def _device(model: Any, batch: dict[str, Any]) -> torch.device:
    """Return the model's device; that of the batch where the model is wrapped for several GPUs."""
    device: torch.device = getattr(model, "device", None) or batch["input_ids"].device
    return device


def _divergence(model: Any, batch: dict[str, Any]) -> tuple[float, int]:
    """Return the summed KL divergence from the base, and the number of tokens."""
    after = compute_logits(model, batch)
    with model.disable_adapter():
        before = compute_logits(model, batch)
    inside = targets(batch) != IGNORE_INDEX
    now, was = after[inside].log_softmax(-1), before[inside].log_softmax(-1)
    return float((now.exp() * (now - was)).sum()), int(inside.sum())


def _mean_answer_length(model: Any, prompts: Sequence[Sequence[int]], eos_token_id: int) -> float:
    """Return the mean number of tokens of greedy answers to all prompts, made in one batch."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), eos_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=MAX_ANSWER_TOKENS,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        use_cache=True,
        pad_token_id=eos_token_id,
        eos_token_id=eos_token_id,
    )
    lengths = []
    for answer in out[:, width:].tolist():
        ended = eos_token_id in answer
        lengths.append(answer.index(eos_token_id) if ended else len(answer))
    return sum(lengths) / len(lengths)
