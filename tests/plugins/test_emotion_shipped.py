"""The shipped classifier performs as its card says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.emotion import EVERYDAY
from chatlm.plugin_kit.artifacts import CHECKSUMS_FILE
from chatlm_emotion import card, classifier, examples
from chatlm_emotion import card as card_module
from chatlm_emotion.card import NEUTRAL, UNSURE, WEIGHTS_FILE
from chatlm_emotion.classifier import ICONS, Classifier
from chatlm_emotion.evaluation import evaluate
from tests import models


@pytest.fixture
def mood(home: Path) -> Classifier:
    models.lend(home, models.embedder_model())
    return classifier.load_classifier(card_module.CLASSIFIERS.get(card_module.DEFAULT_CLASSIFIER))


def test_it_is_small_and_says_where_it_comes_from(home: Path) -> None:
    place = card_module.CLASSIFIERS.get(card_module.DEFAULT_CLASSIFIER)
    assert not place.user_owned
    assert (place.path / WEIGHTS_FILE).stat().st_size < 2_000_000
    known = card.read_card(place.path)
    assert "research" in known.licence
    assert known.command.startswith("chatlm emotion train mood --data train.jsonl")
    assert known.labels == ("anger", "fear", "joy", "love", "sadness", "surprise")
    assert {*known.labels, NEUTRAL, UNSURE} == set(ICONS)
    assert "Licence" in (place.path / "README.md").read_text()


def test_its_weights_have_checksums(home: Path) -> None:
    place = card_module.CLASSIFIERS.get(card_module.DEFAULT_CLASSIFIER)
    assert (place.path / CHECKSUMS_FILE).is_file()
    place.verify()


@pytest.mark.parametrize("texts", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_unseen_texts_are_classified_as_the_card_says(
    mood: Classifier, shared_data: Path, texts: int
) -> None:
    """Figures of the card and the benchmark, on val.jsonl of dair-ai/emotion."""
    val = examples.read_dataset([shared_data / "emotion" / "val.jsonl"])
    found = evaluate(mood, dataclasses.replace(val, rows=val.rows[:texts]))
    assert found.scores is not None
    assert found.scores.accuracy.value >= 0.935
    assert found.scores.macro_f1.value >= 0.90
    assert found.scores.ece.value <= 0.05
    assert found.unsure_share < 0.05


def test_everyday_sentences_have_no_mood(mood: Classifier) -> None:
    found = evaluate(mood, examples.read_dataset([EVERYDAY]))
    assert found.unlabelled == 100
    assert found.unsure_unlabelled_share >= 0.9
    assert found.scores is not None
    assert found.scores.accuracy.value >= 0.7
    assert found.neutral_unlabelled_share >= 0.7
    assert found.neutral_share <= 0.05
    (train,) = mood.classify(["The train is at nine."])
    assert train.label == NEUTRAL


@pytest.mark.parametrize(
    "text",
    [
        "Estoy muy triste porque te fuiste.",
        "¡Qué alegría verte!",
        "我今天非常开心！",
        "Поезд отходит в девять.",
        "Ich bin so wütend auf meinen Nachbarn!",
    ],
)
def test_no_text_in_another_language_is_neutral(mood: Classifier, text: str) -> None:
    (verdict,) = mood.classify([text])
    assert verdict.label == UNSURE


def test_training_and_test_texts_are_disjoint() -> None:
    learnt = examples.read_dataset([Path(card.__file__).parent / "data" / "everyday.jsonl"])
    asked = examples.read_dataset([EVERYDAY])
    assert not {row.text.lower() for row in learnt.rows} & {row.text.lower() for row in asked.rows}


@pytest.mark.parametrize(
    "text", ["", " ", "😠😠😠", "\ud800", "\0", "a" * 100_000, "<|im_end|>", "世界 " * 3000]
)
def test_any_text_has_a_verdict(mood: Classifier, text: str) -> None:
    (verdict,) = mood.classify([text])
    assert verdict.label in ICONS
    assert sum(verdict.probabilities.values()) == pytest.approx(1)
