"""The log-probabilities of a token and of those that might have come in its place."""

from __future__ import annotations

import torch
from torch import Tensor

from chatlm.engines.detokenize import TokenBytes
from chatlm.logprobs import TokenLogprob


def token_logprob(
    logits: Tensor, token: int, alternatives: int, token_bytes: TokenBytes
) -> TokenLogprob:
    """A token's log-probability, and those of the likeliest.

    Args:
        logits: (vocabulary,), the model's own.
        token: the one that was chosen.
        alternatives: how many of the likeliest tokens are wanted.
        token_bytes: names them.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    top = [(number, float(logprobs[number])) for number in likeliest(logprobs, alternatives)]
    return TokenLogprob(
        token_bytes(token),
        float(logprobs[token]),
        tuple(TokenLogprob(token_bytes(number), logprob) for number, logprob in top),
    )


def likeliest(logprobs: Tensor, count: int) -> list[int]:
    """The ids of the greatest, in their order; of equal ones the lowest ids, as `argmax` has it."""
    if not count:
        return []
    border = torch.topk(logprobs, min(count, len(logprobs))).values[-1]
    ids = torch.nonzero(logprobs >= border).flatten()
    order = torch.argsort(logprobs[ids], descending=True, stable=True)
    return list(map(int, ids[order[:count]]))
