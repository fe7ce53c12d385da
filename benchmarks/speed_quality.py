"""Compare a model in each format with itself in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatlm.engines.model import Model, SequenceCache

PROMPTS, LENGTH, READ = 24, 100, 36
"""Texts, tokens of each, and tokens of the prefill before single tokens are decoded."""

WRITTEN = 32
"""Tokens of the compared greedy replies."""


@dataclass(frozen=True)
class Quality:
    """Agreement with float32 over the decoded tokens."""

    divergence: float
    """Mean KL divergence of the next token's distribution, in nats."""
    agreement: float
    """Share of positions with the same most likely token."""
    greedy: float
    """Mean length of the common start of greedy replies, of `WRITTEN` tokens."""


def texts(tokenizer: Any, files: Sequence[Path]) -> list[list[int]]:
    """Return ids of prose that the model was not trained on: chatlm's documentation."""
    ids = tokenizer.encode("\n".join(file.read_text(encoding="utf-8") for file in files))
    chunks = [ids[at : at + LENGTH] for at in range(0, len(ids) - LENGTH, LENGTH)]
    return chunks[:: max(1, len(chunks) // PROMPTS)][:PROMPTS]


class Reference:
    """The logits and replies of a model in float32.

    Args:
        module: a causal model of transformers, in float32.
        texts: ids, `LENGTH` each.
    """

    def __init__(self, module: Any, texts: list[list[int]]) -> None:
        self.texts = texts
        with torch.inference_mode():
            whole = module(torch.tensor(texts)).logits[:, READ - 1 :]
            self.logits = whole.log_softmax(-1)
            prompts = torch.tensor([text[:READ] for text in texts])
            self.replies = module.generate(
                input_ids=prompts, attention_mask=torch.ones_like(prompts),
                max_new_tokens=WRITTEN, do_sample=False, eos_token_id=None,
            )[:, READ:].tolist()  # fmt: skip

    def compare(self, model: Model) -> Quality:
        """Compare a model on the texts and on greedy replies."""
        divergences, agreements, common = [], [], []
        for text, true, reply in zip(self.texts, self.logits, self.replies, strict=True):
            made = torch.stack(list(_singly(model.new_cache(), text))).log_softmax(-1)
            divergences.append((true.exp() * (true - made)).sum(-1).mean())
            agreements.append((true.argmax(-1) == made.argmax(-1)).float().mean())
            common.append(_common(_greedy(model.new_cache(), text[:READ]), reply))
        return Quality(
            float(torch.stack(divergences).mean()),
            float(torch.stack(agreements).mean()),
            sum(common) / len(common),
        )


def _singly(cache: SequenceCache, text: list[int]) -> list[Tensor]:
    first = cache.prefill(text[:READ]).float()
    return [first, *(cache.decode([token])[0].float() for token in text[READ:])]


def _greedy(cache: SequenceCache, prompt: list[int]) -> list[int]:
    logits, reply = cache.prefill(prompt), []
    for _ in range(WRITTEN):
        reply.append(int(logits.argmax()))
        logits = cache.decode(reply[-1:])[0]
    return reply


def _common(left: list[int], right: list[int]) -> int:
    same = [a == b for a, b in zip(left, right, strict=True)]
    return same.index(False) if False in same else len(same)
