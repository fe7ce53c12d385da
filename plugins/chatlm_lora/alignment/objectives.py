"""The losses of preference training: SFT, DPO, IPO, KTO and ORPO.

They are written out here instead of taken from TRL, whose trainers tokenize chats themselves, as
one rendered string: a text in the data could forge a turn, which chatlm's encoder rules out. ORPO
is experimental there, and TRL needs datasets and pyarrow. What they compute is what TRL computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch.nn.functional import logsigmoid

from chatlm import UsageError

Method = Literal["sft", "dpo", "ipo", "kto", "orpo"]
METHODS: tuple[Method, ...] = get_args(Method)

DEFAULT_BETA: dict[Method, float] = {"sft": 0.0, "dpo": 0.1, "ipo": 1.0, "kto": 0.1, "orpo": 0.1}
"""β of each method; SFT has none."""


@dataclass(frozen=True)
class Objective:
    """What preference training minimises.

    Raises:
        UsageError: β is out of range, or does not belong to the method.
    """

    method: Method
    beta: float
    """DPO and KTO: how strongly the base holds the adapter back. IPO: τ, the wanted difference of
    the log-ratios per token is 1 / (2 τ). ORPO: λ, the weight of the odds ratio. SFT: 0."""
    length_normalised: bool = False
    """DPO and KTO: log-ratios are means over a reply's tokens instead of sums. IPO and ORPO always
    take means."""

    def __post_init__(self) -> None:
        if self.method == "sft":
            if self.beta:
                raise UsageError("sft has no β.", hint="Leave --beta out.")
        elif not 1e-4 <= self.beta <= 100:
            raise UsageError(f"beta must be from 0.0001 to 100, not {self.beta:g}.")
        if self.length_normalised and self.method not in ("dpo", "kto"):
            has = "has no log-ratios" if self.method == "sft" else "always takes means"
            raise UsageError(
                f"{self.method} {has}.", hint="--length-normalised belongs to dpo and kto."
            )

    @property
    def needs_mismatched(self) -> bool:
        """Whether replies to other prompts are needed, from which KTO estimates the KL."""
        return self.method == "kto"

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "method": self.method,
            "beta": self.beta,
            "length_normalised": self.length_normalised,
        }


@dataclass(frozen=True)
class ReplyLogprobs:
    """Log-likelihoods of one reply per pair, as tensors of shape (pairs,)."""

    total: torch.Tensor
    """Sum over the reply's tokens, in nats, of the model that is trained."""
    base: torch.Tensor
    """The same of the base, without gradient."""
    tokens: torch.Tensor

    def ratio(self, *, mean: bool) -> torch.Tensor:
        """Return the log-ratio to the base, as a sum or a mean over the tokens."""
        ratio = self.total - self.base
        return ratio / self.tokens if mean else ratio

    def mean(self) -> torch.Tensor:
        """Return the mean log-likelihood of a token."""
        return self.total / self.tokens


def pair_losses(
    objective: Objective,
    chosen: ReplyLogprobs,
    rejected: ReplyLogprobs,
    mismatched: ReplyLogprobs | None = None,
) -> torch.Tensor:
    """Return the loss of each pair, of shape (pairs,).

    Args:
        objective: the method and its β.
        chosen: the preferred replies.
        rejected: the others.
        mismatched: replies to other prompts; only KTO needs them.

    Source:
        DPO: Rafailov et al. (2023); IPO: Azar et al. (2023), with means over tokens as its authors
        confirmed to TRL; KTO: Ethayarajh et al. (2024); ORPO: Hong et al. (2024).
    """
    beta, normalised = objective.beta, objective.length_normalised
    match objective.method:
        case "sft":
            return -chosen.mean()
        case "dpo":
            difference = chosen.ratio(mean=normalised) - rejected.ratio(mean=normalised)
            return -logsigmoid(beta * difference)
        case "ipo":
            difference = chosen.ratio(mean=True) - rejected.ratio(mean=True)
            return (difference - 1 / (2 * beta)) ** 2
        case "kto":
            if mismatched is None:
                raise ValueError("kto needs replies to other prompts")
            # the point of reference: the KL to the base, not below 0 and without gradient
            kl = mismatched.ratio(mean=normalised).mean().clamp(min=0).detach()
            good = 1 - torch.sigmoid(beta * (chosen.ratio(mean=normalised) - kl))
            bad = 1 - torch.sigmoid(beta * (kl - rejected.ratio(mean=normalised)))
            return (good + bad) / 2
        case "orpo":
            one, other = chosen.mean(), rejected.mean()
            odds = (one - other) - (_log1mexp(one) - _log1mexp(other))
            return -one - beta * logsigmoid(odds)


def _log1mexp(logprob: torch.Tensor) -> torch.Tensor:
    """Return log(1 - p) for log p < 0."""
    return torch.log(-torch.expm1(logprob.clamp(max=-1e-6)))
