"""The arithmetic of choosing a token (5.4): pure functions over logits, shape (vocabulary,)."""

from __future__ import annotations

import torch
from torch import Tensor

from chatlm.types.sampling import Sampling


def apply_penalties(
    logits: Tensor,
    made: Tensor,
    seen: Tensor,
    *,
    frequency: float,
    presence: float,
    repetition: float,
) -> Tensor:
    """Logits lowered for tokens that came before (5.4.4).

    Args:
        logits: (vocabulary,), float.
        made: (vocabulary,), how often the reply holds each token so far.
        seen: (vocabulary,), bool, whether prompt or reply hold the token.
        frequency: subtracted once for each time; -2 to 2, 0 is off.
        presence: subtracted once; -2 to 2, 0 is off.
        repetition: positive logits are divided by it and negative ones multiplied; 1 is off.
    """
    if repetition != 1.0:
        changed = torch.where(logits > 0, logits / repetition, logits * repetition)
        logits = torch.where(seen, changed, logits)
    if frequency != 0.0:
        logits = logits.add(made, alpha=-frequency)
    if presence != 0.0:
        logits = logits - presence * (made > 0)
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


def sample_token(probabilities: Tensor, random: torch.Generator) -> int:
    """A token, each as often as is likely; `torch.multinomial` draws a number for every token.

    Args:
        probabilities: (vocabulary,), whose sum need not be exactly 1.
        random: on the processor, so that a seed means the same on every device.

    Raises:
        ValueError: no token is possible, or a probability is no number.
    """
    borders = torch.cumsum(probabilities.cpu(), dim=-1, dtype=torch.float64)
    if not borders[-1] > 0:
        raise ValueError("no token can come next; does a plugin's logits processor rule out all?")
    point = torch.rand((), generator=random, dtype=torch.float64)
    return int(torch.searchsorted(borders, point * borders[-1], right=True))


class Sampler:
    """Chooses tokens one after another, in the order penalties, temperature, top-k, top-p, min-p.

    Args:
        sampling: settings with no value left open but the seed.
        prompt: (tokens,), ids of the prompt.
        vocabulary: number of logits.
        device: where the logits are.
    """

    def __init__(
        self, sampling: Sampling, prompt: Tensor, vocabulary: int, device: torch.device
    ) -> None:
        self._temperature = sampling.temperature or 0.0
        self._top_k = sampling.top_k or 0
        self._top_p = 1.0 if sampling.top_p is None else sampling.top_p
        self._min_p = sampling.min_p or 0.0
        self._frequency = sampling.frequency_penalty or 0.0
        self._presence = sampling.presence_penalty or 0.0
        self._repetition = sampling.repetition_penalty or 1.0
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)
        self._made = torch.zeros(vocabulary, device=device)
        self._seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self._seen[prompt] = True

    def __call__(self, logits: Tensor) -> int:
        """The next token's id.

        Args:
            logits: (vocabulary,), any float type.
        """
        logits = apply_penalties(
            logits.float(),
            self._made,
            self._seen,
            frequency=self._frequency,
            presence=self._presence,
            repetition=self._repetition,
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
            token = sample_token(torch.softmax(kept, dim=-1), self._random)
        self._made[token] += 1
        self._seen[token] = True
        return token
