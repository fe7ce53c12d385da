"""The arithmetic of choosing a token (5.4): pure functions over logits, shape (vocabulary,)."""

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
    """Logits lowered for tokens that came before (5.4.4).

    Args:
        logits: (vocabulary,), float.
        reply_counts: (vocabulary,), how often the reply holds each token so far.
        seen: (vocabulary,), bool, whether prompt or reply hold the token.
        frequency_penalty: subtracted once for each time; -2 to 2, 0 is off.
        presence_penalty: subtracted once; -2 to 2, 0 is off.
        repetition_penalty: positive logits are divided by it and negative ones multiplied; 1 is
            off.
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
    """Logits divided by the temperature, which must be above 0 (5.4.1)."""
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    return logits / temperature


def top_k(logits: Tensor, k: int) -> Tensor:
    """All but the k likeliest set to -inf; 0 keeps all, ties at the border stay."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    border = torch.topk(logits, k).values[-1]
    return logits.masked_fill(logits < border, float("-inf"))


SMALL_NUCLEUS, LARGE_NUCLEUS = 1024, 4096
"""So many of the likeliest tokens mostly reach p; to sort all takes as long as a token."""


def top_p(logits: Tensor, p: float) -> Tensor:
    """All but the fewest likeliest tokens whose probabilities reach p set to -inf."""
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
    """Tokens whose probability is below p times the likeliest token's set to -inf."""
    if p <= 0.0:
        return logits
    probabilities = torch.softmax(logits, dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.max(), float("-inf"))


def sample_token(probabilities: Tensor, generator: torch.Generator) -> int:
    """A token, each as often as is likely; `torch.multinomial` draws a number for every token.

    Args:
        probabilities: (vocabulary,), whose sum need not be exactly 1.
        generator: on the processor, so that a seed means the same on every device.

    Raises:
        ValueError: no token is possible, or a probability is no number.
    """
    borders = torch.cumsum(probabilities.cpu(), dim=-1, dtype=torch.float64)
    if not borders[-1] > 0:
        raise ValueError("no token can come next; does a plugin's logits processor rule out all?")
    point = torch.rand((), generator=generator, dtype=torch.float64)
    return int(torch.searchsorted(borders, point * borders[-1], right=True))


class Sampler:
    """Chooses tokens one after another, in the order penalties, temperature, top-k, top-p, min-p.

    Args:
        sampling: settings with no value left open but the seed.
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
        """The next token's id.

        Args:
            logits: (vocabulary,), any float type.
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
