"""Sample the next token from logits: penalties, temperature, top-k, top-p and min-p."""

from __future__ import annotations

import torch
from torch import Tensor

from chatlm.types.sampling import Sampling


def apply_penalties(
    logits: Tensor,
    reply_counts: Tensor,
    seen: Tensor,
    *,
    frequency_penalty: float,
    presence_penalty: float,
    repetition_penalty: float,
) -> Tensor:
    """Lower the logits of tokens that have occurred.

    Args:
        logits: (vocab_size,), float.
        reply_counts: (vocab_size,), how often each token occurs in the reply so far.
        seen: (vocab_size,), bool, whether the token occurs in the prompt or the reply.
        frequency_penalty: subtracted for each occurrence in the reply; -2 to 2, 0 is off.
        presence_penalty: subtracted once for tokens in the reply; -2 to 2, 0 is off.
        repetition_penalty: divides positive logits and multiplies negative ones; 1 is off.
    """
    if repetition_penalty != 1.0:
        changed = torch.where(logits > 0, logits / repetition_penalty, logits * repetition_penalty)
        logits = torch.where(seen, changed, logits)
    if frequency_penalty != 0.0:
        logits = logits.add(reply_counts, alpha=-frequency_penalty)
    if presence_penalty != 0.0:
        logits = logits - presence_penalty * (reply_counts > 0)
    return logits


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide the logits by the temperature, which must be above 0."""
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    return logits / temperature


def top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k likeliest tokens to -inf; 0 keeps all, and ties at the threshold stay."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    threshold = torch.topk(logits, k).values[-1]
    return logits.masked_fill(logits < threshold, float("-inf"))


SMALL_NUCLEUS, LARGE_NUCLEUS = 1024, 4096
"""Tokens that usually suffice to reach p; sorting all takes as long as decoding a token."""


def top_p(logits: Tensor, p: float) -> Tensor:
    """Set all but the smallest set of likeliest tokens whose probabilities reach p to -inf."""
    if p >= 1.0:
        return logits
    probabilities = torch.softmax(logits, dim=-1)
    for count in (SMALL_NUCLEUS, LARGE_NUCLEUS, logits.shape[-1]):
        ordered, order = torch.topk(probabilities, min(count, logits.shape[-1]))
        if float(ordered.sum()) >= p:
            break
    before = torch.cumsum(ordered, dim=-1) - ordered
    keep = before < p
    keep[0] = True
    kept = order[keep]
    return torch.full_like(logits, float("-inf")).scatter(0, kept, logits[kept])


def min_p(logits: Tensor, p: float) -> Tensor:
    """Set tokens to -inf whose probability is below p times that of the likeliest one."""
    if p <= 0.0:
        return logits
    probabilities = torch.softmax(logits, dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.max(), float("-inf"))


def sample_token(probabilities: Tensor, generator: torch.Generator) -> int:
    """Draw a token from a distribution with a single random number.

    `torch.multinomial` draws one for every token of the vocabulary.

    Args:
        probabilities: (vocab_size,), need not sum to exactly 1.
        generator: on the CPU, so that a seed gives the same token on every device.

    Raises:
        ValueError: all probabilities are 0, or one is NaN.
    """
    cumulative = torch.cumsum(probabilities.cpu(), dim=-1, dtype=torch.float64)
    if not cumulative[-1] > 0:
        raise ValueError("no token can come next; does a plugin's logits processor rule out all?")
    point = torch.rand((), generator=generator, dtype=torch.float64)
    return int(torch.searchsorted(cumulative, point * cumulative[-1], right=True))


class Sampler:
    """A sampler of one reply: penalties, temperature, top-k, top-p, min-p, in this order.

    Args:
        sampling: complete settings; the seed may be None.
        prompt_ids: (tokens,), ids of the prompt.
        vocab_size: number of logits.
        device: where the logits are.
    """

    def __init__(
        self, sampling: Sampling, prompt_ids: Tensor, vocab_size: int, device: torch.device
    ) -> None:
        self._temperature = sampling.temperature or 0.0
        self._top_k = sampling.top_k or 0
        self._top_p = 1.0 if sampling.top_p is None else sampling.top_p
        self._min_p = sampling.min_p or 0.0
        self._frequency_penalty = sampling.frequency_penalty or 0.0
        self._presence_penalty = sampling.presence_penalty or 0.0
        self._repetition_penalty = sampling.repetition_penalty or 1.0
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self._reply_counts = torch.zeros(vocab_size, device=device)
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._seen[prompt_ids] = True

    def __call__(self, logits: Tensor) -> int:
        """Choose the next token and return its id.

        Args:
            logits: (vocab_size,), any float type.
        """
        logits = apply_penalties(
            logits.float(),
            self._reply_counts,
            self._seen,
            frequency_penalty=self._frequency_penalty,
            presence_penalty=self._presence_penalty,
            repetition_penalty=self._repetition_penalty,
        )
        if self._temperature == 0:
            token = int(torch.argmax(logits))
        else:
            kept = min_p(
                top_p(
                    top_k(apply_temperature(logits, self._temperature), self._top_k), self._top_p
                ),
                self._min_p,
            )
            token = sample_token(torch.softmax(kept, dim=-1), self._generator)
        self._reply_counts[token] += 1
        self._seen[token] = True
        return token
