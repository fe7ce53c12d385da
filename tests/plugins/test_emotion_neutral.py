"""A classifier tells texts without a label from those that it is unsure of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chatlm_emotion.card import NEUTRAL, UNSURE, ClassifierCard
from chatlm_emotion.classifier import Classifier
from chatlm_emotion.evaluation import evaluate
from chatlm_emotion.examples import LabelledDataset, LabelledExample
from chatlm_emotion.neutral import LEAST_TEXTS, TARGET_PRECISION, NeutralProbe, lowest_threshold

WIDTH = 8


def states(count: int, seed: int, apart: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """States of as many neutral texts as others, whose means are `apart`."""
    draw = np.random.default_rng(seed)
    found = draw.normal(size=(2 * count, WIDTH))
    found[count:, 0] += apart
    return found, np.arange(2 * count) >= count


def test_most_of_what_is_called_neutral_is() -> None:
    probe = NeutralProbe.fit(*states(500, 0, 2.0))
    assert probe
    held_out, is_neutral = states(2000, 1, 2.0)
    called = probe.are_neutral(held_out)
    assert is_neutral[called].mean() > TARGET_PRECISION - 0.05
    assert called[is_neutral].mean() > 0.5


def test_texts_that_cannot_be_told_apart_give_no_probe() -> None:
    assert NeutralProbe.fit(*states(500, 0, 0.0)) is None
    assert NeutralProbe.fit(*states(LEAST_TEXTS - 1, 0, 2.0)) is None
    tweets, is_neutral = states(300, 0, 2.0)
    assert NeutralProbe.fit(tweets, np.full(len(is_neutral), True)) is None


def test_the_hardest_source_sets_the_threshold() -> None:
    easy, hard = states(400, 0, 4.0), states(400, 1, 1.5)
    both = np.concatenate([easy[0], hard[0]]), np.concatenate([easy[1], hard[1]])
    alone = NeutralProbe.fit(*both)
    apart = NeutralProbe.fit(*both, np.repeat([0, 1], 800))
    assert alone
    assert apart
    assert apart.bias < alone.bias
    others, is_neutral = states(2000, 2, 1.5)
    precision = is_neutral[apart.are_neutral(others)].mean()
    assert precision > max(is_neutral[alone.are_neutral(others)].mean(), TARGET_PRECISION - 0.05)


def test_a_threshold_weighs_both_kinds_alike() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert lowest_threshold(scores, np.array([1, 1, 1, 0, 0, 0], bool)) == pytest.approx(3.0)
    assert lowest_threshold(scores, np.array([0, 0, 0, 1, 1, 1], bool)) is None
    rare = np.array([1, 0, 0, 0, 0, 0], bool)
    assert lowest_threshold(scores, rare) == pytest.approx(4.0), "one in five others is above it"


def test_it_is_stored_and_restored() -> None:
    probe = NeutralProbe.fit(*states(300, 0, 2.0))
    assert probe
    again = NeutralProbe.from_arrays(probe.to_arrays())
    assert again
    some, _ = states(50, 3, 2.0)
    assert (again.are_neutral(some) == probe.are_neutral(some)).all()
    assert NeutralProbe.from_arrays({"head.weight": np.zeros(3)}) is None
    with pytest.raises(ValueError, match="other shapes"):
        NeutralProbe.from_arrays(probe.to_arrays() | {"neutral.weight": np.zeros((2, 2))})


class Numbers:
    """Reads texts such as `2,0,1`: the logits of two labels, and whether they are neutral."""

    shift = None

    def logits(self, texts: Sequence[str]) -> Any:
        return self.logits_and_states(texts)[0]

    def logits_and_states(self, texts: Sequence[str]) -> tuple[Any, Any]:
        numbers = np.array([[float(each) for each in text.split(",")] for text in texts])
        return numbers[:, :2], numbers[:, 2:]

    def are_neutral(self, texts: Sequence[str], states: Any) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = states[:, 0] > 0
        return found


def test_only_an_unsure_classifier_calls_a_text_neutral() -> None:
    card = ClassifierCard("topics", "topic", "encoder", ("bills", "news"), 1.0, 0.8)
    classifier = Classifier(card, Numbers())
    found = classifier.classify(["3,0,1", "0.1,0,1", "0.1,0,0", "0,3,0"])
    assert [each.label for each in found] == ["bills", NEUTRAL, UNSURE, "news"]
    rows = (
        LabelledExample("3,0,1", "bills"),
        LabelledExample("0.1,0,1", "bills"),
        LabelledExample("0.2,0,1", None),
        LabelledExample("0.2,0,0", None),
    )
    measured = evaluate(classifier, LabelledDataset(rows, ("rows",), "", labels=("bills",)))
    assert (measured.neutral_share, measured.neutral_unlabelled_share) == (0.5, 0.5)
    assert measured.unsure_unlabelled_share == 1
    assert classifier.classify([]) == []
