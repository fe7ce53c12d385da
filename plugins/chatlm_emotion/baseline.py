"""Baseline: bag of n-grams and logistic regression, as in chapter 5 of Burkov (2025)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlm import ChatlmError, write_atomically
from chatlm_emotion.card import VOCABULARY_FILE, WEIGHTS_FILE
from chatlm_emotion.examples import LabelledExample
from chatlm_emotion.recipe import Recipe


class Baseline:
    """Logistic regression over the n-grams of a text.

    Args:
        vocabulary: column of each n-gram.
        weights: `(labels, columns)`.
        bias: `(labels,)`.
        ngrams: longest n-gram, in words.
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        weights: NDArray[np.float32],
        bias: NDArray[np.float32],
        ngrams: int,
    ) -> None:
        self._weights, self._bias = weights, bias
        self._vectorizer = count_vectorizer(ngrams, vocabulary)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return logits, `(len(texts), labels)`."""
        seen = self._vectorizer.transform(texts)
        return np.asarray(seen @ self._weights.T, dtype=np.float32) + self._bias

    def save(self, folder: Path) -> None:
        """Write the vocabulary and the weights.

        Raises:
            OSError: it cannot be written.
        """
        from safetensors.numpy import save_file

        words = sorted(self._vectorizer.vocabulary, key=self._vectorizer.vocabulary.__getitem__)
        write_atomically(folder / VOCABULARY_FILE, [json.dumps(words, ensure_ascii=False)])
        # safetensors needs contiguous memory
        weights = np.ascontiguousarray(self._weights, dtype=np.float16)
        tensors: dict[str, Any] = {"weights": weights, "bias": self._bias}
        save_file(tensors, folder / WEIGHTS_FILE)


def fit_baseline(
    train_examples: Sequence[LabelledExample], labels: Sequence[str], recipe: Recipe
) -> Baseline:
    """Fit the weights.

    Args:
        train_examples: the examples; one without a label counts for every label in equal parts.
        labels: in the order of the logits.
        recipe: `ngrams` and `strength`.
    """
    from sklearn.linear_model import LogisticRegression

    count = count_vectorizer(recipe.ngrams)
    texts: list[str] = []
    truth: list[int] = []
    weights: list[float] = []
    for row in train_examples:
        chosen = range(len(labels)) if row.label is None else [labels.index(row.label)]
        for label in chosen:
            texts.append(row.text)
            truth.append(label)
            weights.append(1 / len(chosen))
    seen = count.fit_transform(texts)
    model = LogisticRegression(C=recipe.strength, max_iter=2000)
    model.fit(seen, truth, sample_weight=weights)
    coefficients, bias = model.coef_, model.intercept_
    if len(labels) == 2:  # sklearn has coefficients of the second one only
        coefficients, bias = (np.concatenate([-each, each]) for each in (coefficients, bias))
    words = {str(word): int(column) for word, column in count.vocabulary_.items()}
    return Baseline(words, coefficients.astype(np.float32), bias.astype(np.float32), recipe.ngrams)


def load_baseline(folder: Path, ngrams: int) -> Baseline:
    """Load a saved baseline.

    Raises:
        ChatlmError: its files are damaged.
    """
    from safetensors.numpy import load_file

    try:
        words = json.loads((folder / VOCABULARY_FILE).read_bytes())
        tensors = load_file(folder / WEIGHTS_FILE)
        weights = tensors["weights"].astype(np.float32)
        if weights.shape != (len(tensors["bias"]), len(words)):
            raise ValueError("another number of words")
        places = {word: column for column, word in enumerate(words)}
        return Baseline(places, weights, tensors["bias"], ngrams)
    except Exception as error:  # safetensors has exceptions of its own
        raise ChatlmError(
            f"The classifier {folder.name} is damaged: {str(error) or type(error).__name__}.",
            hint=f"Remove it: chatlm emotion remove {folder.name}",
        ) from error


def count_vectorizer(ngrams: int, vocabulary: dict[str, int] | None = None) -> Any:
    """Return a vectorizer of the n-grams of a text.

    Args:
        ngrams: longest n-gram, in words.
        vocabulary: column of each n-gram; None to learn it.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(ngram_range=(1, ngrams), binary=True, vocabulary=vocabulary)
