"""ROUGE of replies against references, and perplexity (2.6.1) of a text under a contestant."""

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
    """ROUGE-1, -2 and -L of a reply against a reference, each the F-measure, 0 to 1."""
    from rouge_score.rouge_scorer import RougeScorer

    scores = RougeScorer(list(ROUGE_METRICS), use_stemmer=True).score(reference, reply)
    return {name: float(scores[name].fmeasure) for name in ROUGE_METRICS}


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each measure; empty without scores."""
    if not scores:
        return {}
    return {name: sum(score[name] for score in scores) / len(scores) for name in ROUGE_METRICS}


@dataclass(frozen=True)
class Perplexity:
    """How little a contestant expects a text."""

    tokens: int
    loss: float
    """Mean negative log-likelihood of a token, in nats."""

    @property
    def perplexity(self) -> float:
        """exp(loss): between how many tokens it hesitates on average."""
        return math.exp(self.loss)


def measure_perplexity(chat: SideChat, prompt: str, text: str) -> Perplexity:
    """How likely a contestant is to answer a message by this very text.

    The engine is made to say the text token by token, and each token's probability is noted before
    anything is changed about it.

    Args:
        chat: of the contestant.
        prompt: the message that the text answers.
        text: whose tokens count; the end of the turn does not.

    Raises:
        UsageError: the text has no tokens.
        ContextTooLong: prompt and text do not fit the context.
    """
    request = chat.request(prompt)
    whole = (*request.messages, Message("assistant", text))
    seen = chat.engine.preview(dataclasses.replace(request, messages=whole)).tokens
    last = len(whole) - 1
    wanted = [token.id for token in seen if token.message_index == last and not token.control]
    if not wanted:
        raise UsageError("The text has no tokens.", hint="Give one with some words.")
    forced = _ForcedTokens(wanted)
    plain = Sampling(
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        repetition_penalty=1.0,
        max_tokens=len(wanted),
        seed=0,
    )
    request = dataclasses.replace(
        request, sampling=plain, logits_processors=(forced,), stopping_criteria=()
    )
    with closing(chat.engine.stream(request)) as events:
        for _ in events:
            pass
    return Perplexity(len(forced.losses), sum(forced.losses) / max(len(forced.losses), 1))


class _ForcedTokens:
    """A logits processor that notes how likely the wanted token is, then leaves no other."""

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
