"""ROUGE scores of replies against references, and a contestant's perplexity on a text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from chatlm import Message, Sampling, SideChat, UsageError

ROUGE_METRICS = ("rouge1", "rouge2", "rougeL")


def rouge_scores(reply: str, reference: str) -> dict[str, float]:
    """Return the ROUGE-1, -2 and -L F-measures of a reply against a reference, 0 to 1."""
    from rouge_score.rouge_scorer import RougeScorer

    scores = RougeScorer(list(ROUGE_METRICS), use_stemmer=True).score(reference, reply)
    return {name: float(scores[name].fmeasure) for name in ROUGE_METRICS}


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric; empty without scores."""
    if not scores:
        return {}
    return {name: sum(score[name] for score in scores) / len(scores) for name in ROUGE_METRICS}


@dataclass(frozen=True)
class Perplexity:
    """A contestant's perplexity on a text."""

    tokens: int
    loss: float
    """Mean negative log-likelihood of a token, in nats."""
    weights: str
    """As `EngineInfo.weights`."""

    @property
    def is_exact(self) -> bool:
        """Whether the weights are in float32, so that no rounding of theirs is part of it."""
        return self.weights.startswith("32-bit")

    @property
    def perplexity(self) -> float:
        """exp(loss): the effective number of tokens the model chooses from."""
        return math.exp(self.loss)


def measure_perplexity(chat: SideChat, prompt: str, text: str) -> Perplexity:
    """Measure the perplexity of a contestant on a text as the reply to a message.

    A logits processor forces the text token by token and records the probability of each token
    under the unmodified distribution ("The Hundred-Page Language Models Book", section 2.6.1).

    Args:
        chat: a chat with the contestant.
        prompt: the message that the text answers.
        text: the reply; the token that ends the turn is not counted.

    Raises:
        UsageError: the text has no tokens.
        ContextTooLong: prompt and text do not fit the context.
    """
    request = chat.request(prompt)
    messages = (*request.messages, Message("assistant", text))
    tokens = chat.engine.preview(dataclasses.replace(request, messages=messages)).tokens
    last = len(messages) - 1
    token_ids = [token.id for token in tokens if token.message_index == last and not token.control]
    if not token_ids:
        raise UsageError("The text has no tokens.", hint="Use a text that is not empty.")
    forced = _ForcedTokens(token_ids)
    plain = Sampling(
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        top_n_sigma=0.0,
        xtc_probability=0.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        repetition_penalty=1.0,
        dry_multiplier=0.0,
        max_tokens=len(token_ids),
        seed=0,
    )
    request = dataclasses.replace(
        request, sampling=plain, logits_processors=(forced,), stopping_criteria=()
    )
    with closing(chat.engine.stream(request)) as events:
        for _ in events:
            pass
    loss = sum(forced.losses) / max(len(forced.losses), 1)
    return Perplexity(len(forced.losses), loss, chat.engine.info.weights)


class _ForcedTokens:
    """A logits processor that records the loss of the next token, then masks all others."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids = token_ids
        self.losses: list[float] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        token = self._token_ids[len(self.losses)]
        logs = torch.log_softmax(scores[0].float(), dim=-1)
        self.losses.append(-float(logs[token]))
        forced = torch.full_like(scores, float("-inf"))
        forced[0, token] = 0.0
        return forced
