"""Lets a model answer a prompt greedily, to show what an adapter changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from chatlm import ChatEncoder, Message

LONGEST_ANSWER = 96
"""Tokens."""


def answer(model: Any, encoder: ChatEncoder, messages: Sequence[Message]) -> str:
    """What the model says, always its likeliest token; cut after `LONGEST_ANSWER`.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        encoder: of that model.
        messages: that it answers.
    """
    ids = torch.tensor([encoder.prompt(messages)], device=model.device)
    with torch.no_grad():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=LONGEST_ANSWER,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            pad_token_id=encoder.end_id,
        )
    said: list[int] = out[0, ids.shape[1] :].tolist()
    if encoder.end_id in said:
        said = said[: said.index(encoder.end_id)]
    return encoder.decode(said).strip()
