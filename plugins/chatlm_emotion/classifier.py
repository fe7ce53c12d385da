"""Load a classifier, and predict labels with probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from chatlm import Artifact, ChatlmError, ModelLocation, find_model, fingerprint_weights
from chatlm_emotion import card as cards
from chatlm_emotion.card import NEUTRAL, UNSURE, ClassifierCard
from chatlm_emotion.domain_shift import DomainShift
from chatlm_emotion.metrics import softmax
from chatlm_emotion.recipe import Recipe

ICONS = {
    "anger": "😠",
    "fear": "😨",
    "joy": "😊",
    "love": "💗",
    "sadness": "😢",
    "surprise": "😮",
    NEUTRAL: "○",
    UNSURE: "·",
}
"""Icons of labels."""

BATCH_SIZE = 256
"""Texts per batch, after which progress is reported."""


class Scorer(Protocol):
    """A trained model of any method."""

    def logits(self, texts: Sequence[str]) -> Any:
        """Return logits, `(len(texts), labels)`."""


@runtime_checkable
class EncoderScorer(Protocol):
    """A trained encoder, which may tell how unlike its training texts others are, and which are
    neutral."""

    shift: DomainShift | None

    def logits_and_states(self, texts: Sequence[str]) -> tuple[Any, Any]:
        """Return logits, `(len(texts), labels)`, and states, `(len(texts), width)`."""

    def are_neutral(self, texts: Sequence[str], states: Any) -> NDArray[np.bool_]:
        """Return which texts are neutral, from their states; none if it was not taught that."""


@dataclass(frozen=True, eq=False)
class Readings:
    """What a classifier makes of some texts."""

    probabilities: NDArray[np.float64]
    """Of the card's labels, `(texts, labels)`; each row sums to 1."""
    sure: NDArray[np.bool_]
    """Where the most probable label reaches the threshold, `(texts,)`."""
    neutral: NDArray[np.bool_]
    """Which of the others are neutral, `(texts,)`."""


@dataclass(frozen=True)
class Prediction:
    """The predicted label of one text."""

    label: str
    """One of the card's labels, `NEUTRAL` or `UNSURE`."""
    score: float
    """Probability of the most probable label."""
    probabilities: dict[str, float]


class Classifier:
    """A trained scorer with calibrated probabilities and a threshold.

    Args:
        card: the classifier's card.
        scorer: computes the logits.
    """

    def __init__(self, card: ClassifierCard, scorer: Scorer) -> None:
        self.card = card
        self._scorer = scorer

    def probabilities(
        self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float64]:
        """Return probabilities of the card's labels, `(len(texts), labels)`; each row sums to 1."""
        return self.read(texts, on_progress).probabilities

    def read(
        self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None
    ) -> Readings:
        """Return what the classifier makes of texts.

        Args:
            texts: the texts.
            on_progress: called with the number of texts done since the last call.
        """
        found = np.empty((len(texts), len(self.card.labels)))
        neutral = np.zeros(len(texts), bool)
        for begin in range(0, len(texts), BATCH_SIZE):
            part = texts[begin : begin + BATCH_SIZE]
            place = slice(begin, begin + BATCH_SIZE)
            found[place], neutral[place] = self._read_batch(part)
            if on_progress:
                on_progress(len(part))
        sure = found.max(1, initial=0) >= self.card.threshold
        return Readings(found, sure, neutral & ~sure)

    def _read_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the probabilities of the labels, and which texts the probe takes for neutral."""
        scorer, warmth = self._scorer, self.card.temperature
        if not isinstance(scorer, EncoderScorer):
            found = softmax(np.asarray(scorer.logits(texts)), warmth)
            return found, np.zeros(len(texts), bool)
        logits, states = map(np.asarray, scorer.logits_and_states(texts))
        probabilities: NDArray[np.float64] = softmax(logits, warmth)
        if scorer.shift is not None:
            probabilities = scorer.shift.soften(probabilities, states)
        return probabilities, scorer.are_neutral(texts, states)

    def classify(
        self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Return a prediction for each text; arguments as `read`."""
        labels = self.card.labels
        read = self.read(texts, on_progress)
        found = []
        for row, sure, neutral in zip(read.probabilities, read.sure, read.neutral, strict=True):
            best = int(row.argmax())
            label = labels[best] if sure else NEUTRAL if neutral else UNSURE
            probabilities = {name: float(each) for name, each in zip(labels, row, strict=True)}
            found.append(Prediction(label, float(row[best]), probabilities))
        return found


def load_classifier(artifact: Artifact) -> Classifier:
    """Load a classifier; its base model must be local.

    Raises:
        ChatlmError: the base model is missing or has changed, or the folder is damaged.
    """
    card = cards.read_card(artifact.path)
    scorer: Scorer
    if card.method == "baseline":
        from chatlm_emotion import baseline

        ngrams = Recipe.from_dict(card.settings).ngrams
        scorer = baseline.load_baseline(artifact.path, ngrams)
    else:
        scorer = _load_scorer(card, artifact.path, resolve_base_model(card))
    artifact.check()  # afterwards, since the loaders explain more
    return Classifier(card, scorer)


def resolve_base_model(card: ClassifierCard) -> ModelLocation:
    """Return the base model of a classifier.

    Raises:
        ChatlmError: it is not local, or not the one the classifier was trained on.
    """
    base = find_model(card.base)
    if fingerprint_weights(base.folder) != card.fingerprint:
        raise ChatlmError(
            f"The classifier {card.name} was trained on another {card.base} than the local one.",
            hint="Train it again: chatlm emotion train --help",
        )
    return base


def _load_scorer(card: ClassifierCard, folder: Path, base: ModelLocation) -> Scorer:
    from chatlm_emotion import network_weights

    stored = network_weights.load_tensors(folder)
    try:
        recipe = Recipe.from_dict(card.settings)
        if card.method == "encoder":
            from chatlm_emotion.bert_encoder import BertClassifier

            return BertClassifier(base.folder, stored, lora_scale=2.0, max_tokens=recipe.max_length)
        from chatlm import fast_dtype
        from chatlm_emotion.networks import NETWORKS
        from chatlm_emotion.training import NetworkScorer

        network = NETWORKS[card.method](base, card.labels, recipe, fast_dtype("cpu"))
        network_weights.load_into_network(network, stored)
        return NetworkScorer(network)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise ChatlmError(
            f"The classifier {card.name} is damaged: {str(error) or type(error).__name__}.",
            hint=f"Remove it: chatlm emotion remove {card.name}",
        ) from error
