"""Sample the next token from logits: penalties, DRY, temperature, truncation and XTC."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from chatlm.engines.detokenizer import TokenBytes
from chatlm.engines.native.token_choice import TokenChooser, token_chooser
from chatlm.errors import UsageError
from chatlm.types.sampling import LogitBias, Sampling

ALL_MASKED = "all tokens are masked (-inf); a plugin's logits processor may have masked them"
"""Message of the error when there is nothing to choose."""

DRY_BREAKERS = frozenset(b'\n:"*')
"""Bytes that break sequences, as in the programs that introduced DRY."""


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


def token_biases(
    logit_bias: LogitBias, encode: Callable[[str], Sequence[int]], vocab_size: int
) -> dict[int, float]:
    """Return the bias of each token id; a token that is named several times gets the sum.

    Args:
        logit_bias: by token id or text.
        encode: encodes a text to ids; each of them is biased.
        vocab_size: number of logits.

    Raises:
        UsageError: the model has no token with an id.
    """
    biases: dict[int, float] = {}
    for token, bias in logit_bias:
        for number in (token,) if isinstance(token, int) else encode(token):
            if number >= vocab_size:
                raise UsageError(
                    f"logit_bias names the token id {number:,}, but the ids of this model are 0 to "
                    f"{vocab_size - 1:,}",
                    hint="Ids differ from model to model; with local models a text works as well.",
                )
            biases[number] = biases.get(number, 0.0) + bias
    return biases


def apply_logit_bias(logits: Tensor, ids: Tensor, biases: Tensor) -> Tensor:
    """Add to the logits of some tokens.

    Args:
        logits: (vocab_size,), float.
        ids: (tokens,), each once.
        biases: (tokens,), what is added to the logit of each.
    """
    return logits.index_add(0, ids, biases)


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


def top_n_sigma(logits: Tensor, n: float) -> Tensor:
    """Set tokens to -inf whose logit is over n standard deviations below the largest; 0 is off.

    The deviation is that of all finite logits before the temperature (Tang et al., 2024).
    """
    if n <= 0.0:
        return logits
    finite = logits[torch.isfinite(logits)]
    threshold = finite.max() - n * finite.std(correction=0)
    return logits.masked_fill(logits < threshold, float("-inf"))


def exclude_top_choices(
    logits: Tensor, probability: float, threshold: float, generator: torch.Generator
) -> Tensor:
    """Set all but the least likely of the tokens that reach a threshold to -inf (XTC).

    It makes replies less predictable where several tokens are plausible.

    Args:
        logits: (vocab_size,), after the other samplers.
        probability: how often it happens, 0 to 1; 0 is off and draws no random number.
        threshold: a token's least probability to count as a top choice; above 0.5 is off.
        generator: on the CPU.
    """
    if probability <= 0.0 or threshold > 0.5:
        return logits
    if float(torch.rand((), generator=generator, dtype=torch.float64)) >= probability:
        return logits
    probabilities = torch.softmax(logits, dim=-1)
    top = probabilities >= threshold
    if int(top.sum()) < 2:
        return logits
    least = probabilities.masked_fill(~top, float("inf")).argmin()
    top[least] = False
    return logits.masked_fill(top, float("-inf"))


class RepetitionTracker:
    """The lengths of the repeated sequences that each next token would continue (DRY).

    Args:
        ids: of the prompt.
        is_breaker: tells whether a token breaks sequences, such as a line break.
    """

    def __init__(self, ids: Sequence[int], is_breaker: Callable[[int], bool]) -> None:
        self._is_breaker = is_breaker
        self._ids = np.empty(max(1024, 2 * len(ids)), dtype=np.int64)
        self._lengths = np.zeros_like(self._ids)
        """For each position, how many tokens up to it equal those up to the newest one."""
        self._count = 0
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Add the newest token."""
        if self._count == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
        count = self._count
        if self._is_breaker(token):
            self._lengths[: count + 1] = 0
        else:
            same = self._ids[:count] == token
            before = np.concatenate([[0], self._lengths[: max(count - 1, 0)]])[:count]
            self._lengths[:count] = np.where(same, before + 1, 0)
            self._lengths[count] = 0
        self._ids[count] = token
        self._count += 1

    def copy(self) -> RepetitionTracker:
        """Return one that goes on from here."""
        copied = copy.copy(self)
        copied._ids, copied._lengths = self._ids.copy(), self._lengths.copy()
        return copied

    def next_tokens(self, allowed_length: int) -> dict[int, int]:
        """Return tokens that followed an earlier occurrence of the newest ones.

        Args:
            allowed_length: sequences shorter than this do not count.

        Returns:
            by id, the length of the longest sequence that the token would continue; without
            tokens that break sequences.
        """
        places = np.flatnonzero(self._lengths[: max(self._count - 1, 0)] >= allowed_length)
        longest: dict[int, int] = {}
        for place in places.tolist():
            token = int(self._ids[place + 1])
            if self._is_breaker(token):
                continue
            longest[token] = max(longest.get(token, 0), int(self._lengths[place]))
        return longest


def apply_dry(
    logits: Tensor, repeated: Mapping[int, int], *, multiplier: float, base: float, allowed: int
) -> Tensor:
    """Lower the logits of tokens that would continue a repetition ("Don't Repeat Yourself").

    Args:
        logits: (vocab_size,), float.
        repeated: by token id, the length of the sequence it would continue.
        multiplier: the penalty at the allowed length; 0 is off.
        base: factor by which the penalty grows with each further token.
        allowed: the length from which sequences are penalised.
    """
    if not repeated or multiplier <= 0.0:
        return logits
    logits = logits.clone()
    for token, length in repeated.items():
        # beyond 100 tokens the penalty rules the token out anyway, and floats would overflow
        logits[token] -= multiplier * base ** min(length - allowed, 100)
    return logits


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
        raise ValueError(ALL_MASKED)
    point = torch.rand((), generator=generator, dtype=torch.float64)
    return int(torch.searchsorted(cumulative, point * cumulative[-1], right=True))


POINTS_AHEAD = 32
"""Random numbers that are drawn at once, which takes no longer than one."""


class Sampler:
    """A sampler of one reply.

    The order is: logit bias, penalties, DRY, top-n-sigma, temperature, top-k, top-p, min-p, XTC.

    Args:
        sampling: complete settings; the seed may be None.
        prompt_ids: (tokens,), ids of the prompt.
        vocab_size: number of logits.
        device: where the logits are.
        token_bytes: returns the bytes of an id; tells DRY which tokens break sequences.
        encode: encodes a text to ids, for logit biases by text.

    Raises:
        UsageError: a logit bias names a token that the model does not have.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt_ids: Tensor,
        vocab_size: int,
        device: torch.device,
        token_bytes: TokenBytes,
        encode: Callable[[str], Sequence[int]],
    ) -> None:
        biases = token_biases(sampling.logit_bias, encode, vocab_size)
        self._biased_ids = torch.tensor(list(biases), dtype=torch.long, device=device)
        self._biases = torch.tensor(list(biases.values()), dtype=torch.float, device=device)
        self._temperature = sampling.temperature or 0.0
        self._top_k = sampling.top_k or 0
        self._top_p = 1.0 if sampling.top_p is None else sampling.top_p
        self._min_p = sampling.min_p or 0.0
        self._frequency_penalty = sampling.frequency_penalty or 0.0
        self._presence_penalty = sampling.presence_penalty or 0.0
        self._repetition_penalty = sampling.repetition_penalty or 1.0
        self._top_n_sigma = sampling.top_n_sigma or 0.0
        self._xtc_probability = sampling.xtc_probability or 0.0
        self._xtc_threshold = 1.0 if sampling.xtc_threshold is None else sampling.xtc_threshold
        self._dry_multiplier = sampling.dry_multiplier or 0.0
        self._dry_base = sampling.dry_base or 1.0
        self._dry_allowed_length = sampling.dry_allowed_length or 1
        self._repetitions = (
            RepetitionTracker(
                prompt_ids.tolist(), lambda token: not DRY_BREAKERS.isdisjoint(token_bytes(token))
            )
            if self._dry_multiplier
            else None
        )
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self._chooser = token_chooser()
        self._points: list[float] = []
        """Random numbers that were drawn ahead, the next one last."""
        self._counts_tokens = (
            self._frequency_penalty != 0.0
            or self._presence_penalty != 0.0
            or self._repetition_penalty != 1.0
        )
        self._reply_counts = torch.zeros(vocab_size, device=device)
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._seen[prompt_ids] = True

    def fork(self) -> Sampler:
        """Return a sampler that goes on from here with the same random numbers."""
        forked = copy.copy(self)
        forked._generator = self._generator.clone_state()
        forked._points = list(self._points)
        if self._counts_tokens:
            forked._reply_counts = self._reply_counts.clone()
            forked._seen = self._seen.clone()
        if self._repetitions:
            forked._repetitions = self._repetitions.copy()
        return forked

    def __call__(self, logits: Tensor) -> int:
        """Choose the next token and return its id.

        Args:
            logits: (vocab_size,), any float type.

        Raises:
            ValueError: all tokens are masked.
        """
        logits = logits.float()
        if len(self._biases):
            logits = apply_logit_bias(logits, self._biased_ids, self._biases)
        if self._counts_tokens:
            logits = apply_penalties(
                logits,
                self._reply_counts,
                self._seen,
                frequency_penalty=self._frequency_penalty,
                presence_penalty=self._presence_penalty,
                repetition_penalty=self._repetition_penalty,
            )
        if self._repetitions:
            logits = apply_dry(
                logits,
                self._repetitions.next_tokens(self._dry_allowed_length),
                multiplier=self._dry_multiplier,
                base=self._dry_base,
                allowed=self._dry_allowed_length,
            )
        if self._chooser:
            return self.accept(self._choose(self._chooser, logits.cpu().contiguous()))
        return self.accept(self._choose_with_torch(logits))

    def _choose(self, chooser: TokenChooser, logits: Tensor) -> int:
        may_exclude = self._xtc_probability > 0.0 and self._xtc_threshold <= 0.5
        excludes = self._temperature > 0 and may_exclude and self._random() < self._xtc_probability
        token = chooser.choose(
            logits,
            temperature=self._temperature,
            top_k=self._top_k,
            top_p=self._top_p,
            min_p=self._min_p,
            top_n_sigma=self._top_n_sigma,
            xtc_threshold=self._xtc_threshold if excludes else 1.0,
            point=self._random() if self._temperature > 0 else 0.0,
        )
        if token is None:
            raise ValueError(ALL_MASKED)
        return token

    def _choose_with_torch(self, logits: Tensor) -> int:
        """Do the same where there is no compiler."""
        if self._temperature == 0:
            return int(torch.argmax(logits))
        kept = apply_temperature(top_n_sigma(logits, self._top_n_sigma), self._temperature)
        kept = min_p(top_p(top_k(kept, self._top_k), self._top_p), self._min_p)
        kept = exclude_top_choices(
            kept, self._xtc_probability, self._xtc_threshold, self._generator
        )
        return sample_token(torch.softmax(kept, dim=-1), self._generator)

    def _random(self) -> float:
        """Return the generator's next number, from 0 to 1 without 1."""
        if not self._points:
            points = torch.rand(POINTS_AHEAD, generator=self._generator, dtype=torch.float64)
            self._points = points.tolist()[::-1]
        return self._points.pop()

    def accept(self, token: int) -> int:
        """Count a token as the newest, chosen or not, and return it."""
        if self._counts_tokens:
            self._reply_counts[token] += 1
            self._seen[token] = True
        if self._repetitions:
            self._repetitions.add(token)
        return token
