"""Perplexity of lab models: per token, per character and in bits per byte (book, section 2.6.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from chatlm import UsageError
from chatlm_lab.architectures import Predictor
from chatlm_lab.tokenizer_kinds import UNKNOWN, TokenizerKind, encode_stream

SUM_PLACES = 200
"""Contexts over which the sum of the probabilities is averaged."""


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text."""

    tokens: int
    """Predicted tokens, the ends of the texts included."""
    characters: int
    bytes: int
    unknown: int
    """Tokens that stand for something outside the vocabulary."""
    nats: float
    """Negative log-likelihood of all tokens."""
    mean_sum: float
    """What the probabilities of all tokens sum to, on average; 1 if they are normalised."""

    @property
    def perplexity(self) -> float:
        """Perplexity per token; it compares models with the same tokens only."""
        return math.exp(self.nats / self.tokens)

    @property
    def character_perplexity(self) -> float:
        """Perplexity per character, which compares models with different tokenizers."""
        return math.exp(self.nats / self.characters)

    @property
    def bits_per_byte(self) -> float:
        """Bits in which a byte of the text could be coded on average."""
        return self.nats / math.log(2) / self.bytes

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON; per character and byte only where no token is unknown."""
        whole = not self.unknown
        return {
            "perplexity": self.perplexity,
            "character_perplexity": self.character_perplexity if whole else None,
            "bits_per_byte": self.bits_per_byte if whole else None,
            "tokens": self.tokens,
            "unknown_tokens": self.unknown,
            "mean_sum": self.mean_sum,
        }


def evaluate(
    predictor: Predictor, tokenizer: Tokenizer, kind: TokenizerKind, texts: Sequence[str]
) -> Evaluation:
    """Measure how well a model predicts texts.

    Args:
        predictor: of the model.
        tokenizer: of the model.
        kind: of the tokenizer.
        texts: which it was not trained on.

    Raises:
        UsageError: there is no text.
    """
    if not any(texts):
        raise UsageError("There is no text to evaluate on.")
    ids = encode_stream(tokenizer, kind, texts)
    found = predictor.log_probabilities(ids)[1:]  # the first token only says that a text begins
    unknown = tokenizer.token_to_id(UNKNOWN)
    places = np.linspace(1, len(ids) - 1, min(SUM_PLACES, len(ids) - 1)).astype(int)
    return Evaluation(
        tokens=len(found),
        characters=sum(map(len, texts)),
        bytes=sum(len(text.encode()) for text in texts),
        unknown=0 if unknown is None else int(np.count_nonzero(ids == unknown)),
        nats=float(-found.sum()),
        mean_sum=predictor.mean_sum(ids, places.tolist()),
    )
