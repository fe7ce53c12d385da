"""A classifier is less sure of texts unlike those that it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chatlm_emotion import card as cards
from chatlm_emotion.classifier import load_classifier
from chatlm_emotion.domain_shift import DIMENSIONS, MAX_EVEN_SHARE, DomainShift
from tests import models

WIDTH = 3 * DIMENSIONS


def states(
    texts: int, seed: int, outside: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """States near a subspace, with a part of another direction."""
    draw = np.random.default_rng(seed)
    near = np.zeros((texts, WIDTH))
    near[:, :DIMENSIONS] = draw.normal(size=(texts, DIMENSIONS))
    return near + outside * draw.normal(size=(texts, WIDTH))


@pytest.fixture
def shift() -> DomainShift:
    fitted = DomainShift.fit(states(400, 0, 0.1), states(100, 1, 0.1))
    assert fitted
    return fitted


def test_a_text_unlike_the_others_is_judged_less_surely(shift: DomainShift) -> None:
    like, unlike = states(50, 2, 0.1), states(50, 3, 3.0)
    probabilities = np.tile([0.9, 0.06, 0.04], (50, 1))
    known, other = shift.soften(probabilities, like), shift.soften(probabilities, unlike)
    assert known[:, 0].mean() > 0.83
    assert np.allclose(other[:, 0], (1 - MAX_EVEN_SHARE) * 0.9 + MAX_EVEN_SHARE / 3)
    for changed in (known, other):
        assert np.allclose(changed.sum(1), 1)
        assert (changed.argsort(1) == probabilities.argsort(1)).all()
    assert (shift.distances(unlike) > shift.distances(like).max()).all()


def test_it_is_stored_and_restored(shift: DomainShift) -> None:
    again = DomainShift.from_arrays(shift.to_arrays())
    assert again
    assert np.allclose(again.distances(states(9, 4, 1.0)), shift.distances(states(9, 4, 1.0)))
    assert DomainShift.from_arrays({"head.weight": np.zeros(3)}) is None
    with pytest.raises(ValueError, match="other shapes"):
        DomainShift.from_arrays(shift.to_arrays() | {"shift.centre": np.zeros(3)})
    with pytest.raises(ValueError, match="empty range"):
        DomainShift.from_arrays(shift.to_arrays() | {"shift.range": np.zeros(2)})


def test_few_texts_have_no_subspace() -> None:
    assert DomainShift.fit(states(DIMENSIONS, 0, 0.1), states(100, 1, 0.1)) is None
    assert DomainShift.fit(states(400, 0, 0.1), states(9, 1, 0.1)) is None


def test_the_shipped_classifier_is_less_sure_of_the_news(home: Path) -> None:
    models.lend(home, models.embedder_model())
    mood = load_classifier(cards.CLASSIFIERS.get(cards.DEFAULT_CLASSIFIER))
    shift = mood._scorer.shift  # type: ignore[attr-defined]
    tweets = ["i feel so happy and blessed today", "i was feeling lonely and rejected again"]
    news = ["The committee published its report on harbour fees.", "SELECT * FROM users;"]
    _, of_tweets = mood._scorer.logits_and_states(tweets)  # type: ignore[attr-defined]
    _, of_news = mood._scorer.logits_and_states(news)  # type: ignore[attr-defined]
    assert shift.distances(of_tweets.numpy()).max() < shift.distances(of_news.numpy()).min()
    assert mood.probabilities(news).max() < 0.8
