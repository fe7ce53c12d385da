"""Word vectors are trained by the loss of negative sampling, and tell which words are alike."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from chatlm import ChatlmError, UsageError
from chatlm_lab.vector_commands import map_lines
from chatlm_lab.vector_files import VECTORS, load_vectors
from chatlm_lab.word_vectors import (
    METHODS,
    Method,
    NegativeSampling,
    VectorRecipe,
    WordVectors,
    _subsample,
    find_near,
    find_words,
    train_vectors,
)
from tests.plugins.test_lab_commands import fail, succeed, table

GROUPS = (
    ("cat", "dog", "pony", "hamster"),
    ("saw", "drill", "hammer", "wrench"),
    ("bread", "cheese", "soup", "apple"),
)
NEAR = (
    ("feeds", "strokes", "sleeps", "tail"),
    ("sharpens", "steel", "workshop", "oil"),
    ("eats", "warm", "plate", "taste"),
)


def similar_words(lines: int = 400) -> str:
    """Return lines in which the words of a group stand beside the same others."""
    draw = random.Random(1)
    text = []
    for _ in range(lines):
        group = draw.randrange(len(GROUPS))
        first, second = draw.sample(NEAR[group], 2)
        text.append(f"the {first} the {draw.choice(GROUPS[group])} the {second}")
    return "\n".join(text)


def royal_words(lines: int = 600) -> str:
    """Return lines in which king is to queen what man is to woman."""
    draw = random.Random(2)
    text = []
    for _ in range(lines):
        royal, female = draw.random() < 0.5, draw.random() < 0.5
        word = (("man", "woman"), ("king", "queen"))[royal][female]
        rank = draw.choice((("field", "village"), ("crown", "throne"))[royal])
        sex = draw.choice((("he", "his"), ("she", "her"))[female])
        text.append(" ".join(draw.sample([rank, word, sex], 3)))
    return "\n".join(text)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "groups.txt"
    path.write_text(similar_words())
    return path


@pytest.mark.parametrize("method", METHODS)
def test_words_with_the_same_words_near_them_get_similar_vectors(method: Method) -> None:
    recipe = VectorRecipe(method=method, width=16, window=3, epochs=12, subsample=0, batch_size=64)
    vectors, losses = train_vectors([similar_words()], recipe)
    assert losses[-1] < losses[0]
    assert vectors.words[0] == "the"
    for group in GROUPS:
        for word in group:
            nearest = [each for each, _ in vectors.neighbours(word, 3)]
            assert set(nearest) == set(group) - {word}, (word, nearest)
    again, _ = train_vectors([similar_words()], recipe)
    np.testing.assert_array_equal(again.vectors, vectors.vectors)


@pytest.mark.parametrize("method", METHODS)
def test_differences_of_vectors_answer_analogies(method: Method) -> None:
    recipe = VectorRecipe(method=method, width=16, window=2, epochs=15, subsample=0, batch_size=64)
    vectors, _ = train_vectors([royal_words()], recipe)
    assert vectors.analogies("man", "king", "woman", 1)[0][0] == "queen"
    assert vectors.analogies("queen", "king", "woman", 1)[0][0] == "man"
    asked = {"man", "king", "woman"}
    assert not asked & {word for word, _ in vectors.analogies("Man", "King", "Woman", 20)}


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_is_that_of_negative_sampling(method: Method) -> None:
    torch.manual_seed(0)
    model = NegativeSampling(6, VectorRecipe(method=method, width=3))
    torch.nn.init.normal_(model.given.weight)
    torch.nn.init.normal_(model.predicted.weight)
    given, predicted = (each.weight.detach().numpy() for each in (model.given, model.predicted))
    centres, near = [1, 4], [[2, -1, 3], [-1, 5, -1]]
    pairs = [(1, 2), (1, 3), (4, 5)]
    if method == "cbow":
        sides = [((given[2] + given[3]) / 2, 1), (given[5], 4)]
    else:
        sides = [(given[centre], other) for centre, other in pairs]
    drawn = [[0, 1], [2, 5], [3, 3]][: len(sides)]

    def log_sigmoid(value: float) -> float:
        return -math.log(1 + math.exp(-value))

    expected = 0.0
    for (v, word), random_words in zip(sides, drawn, strict=True):
        expected -= log_sigmoid(float(v @ predicted[word]))
        expected -= sum(log_sigmoid(-float(v @ predicted[other])) for other in random_words)
    found = model(torch.tensor(centres), torch.tensor(near), torch.tensor(drawn))
    assert float(found.detach()) == pytest.approx(expected / len(sides), rel=1e-5)


def test_near_words_are_in_the_window_and_in_the_same_line() -> None:
    ids = np.arange(10, 22)
    line_of = np.array([0] * 5 + [1] * 7)
    rows = np.arange(12)
    reached = set()
    for seed in range(30):
        near = find_near(ids, line_of, rows, 3, np.random.default_rng(seed))
        assert near.shape == (12, 6)
        for row, others in zip(rows, near, strict=True):
            there = [int(other) - 10 for other in others if other >= 0]
            assert there
            assert all(0 < abs(other - row) <= 3 for other in there)
            assert {int(line_of[other]) for other in there} == {int(line_of[row])}
            reach = max(abs(other - row) for other in there)
            within = [place for place in rows if 0 < abs(place - row) <= reach]
            assert there == [place for place in within if line_of[place] == line_of[row]]
            reached.add(reach)
    assert reached == {1, 2, 3}


def test_frequent_words_are_left_out_at_random() -> None:
    stream = np.repeat([0, 1], [90_000, 10])
    kept = _subsample(stream, np.array([90_000.0, 10.0]), 1e-3, np.random.default_rng(0))
    assert kept[stream == 1].all()
    assert kept[stream == 0].mean() == pytest.approx(math.sqrt(1e-3), rel=0.1)


def test_words_are_in_small_letters_with_their_apostrophes() -> None:
    assert find_words("The CAT's tail — don’t!") == ["the", "cat's", "tail", "don’t"]


def test_a_map_lies_in_the_plane_of_the_first_principal_components() -> None:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(9, 5)).astype(np.float32)
    words = [f"w{number}" for number in range(9)]
    places = WordVectors(words, vectors).project(words)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(np.cov(units.T))
    np.testing.assert_allclose(places.var(0, ddof=1), eigenvalues[:-3:-1], rtol=1e-4)
    lines = map_lines(
        ["left", "right", "below", "under"], np.array([[0, 1], [9, 1], [5, 0], [5, 0]])
    )
    assert lines[0].startswith("left")
    assert lines[0].endswith("right")
    assert lines[-2].strip() == "below"
    assert lines[-1].startswith("1 more")
    with pytest.raises(UsageError, match="three words"):
        WordVectors(words, vectors).project(words[:2])


def test_vectors_are_trained_listed_looked_at_and_removed(
    home: Path, data: Path, tmp_path: Path
) -> None:
    options = ("--width", "16", "--epochs", "8", "--subsample", "0", "--method", "cbow")
    card = table("vectors", "train", "words", "--data", data, *options)
    assert card["words"] == 1 + sum(map(len, GROUPS + NEAR))
    assert len(card["losses"]) == 8
    assert str(tmp_path) not in json.dumps(card)
    assert [row["name"] for row in table("vectors", "list")] == ["words"]
    assert "cbow, 25 words of 16" in succeed("vectors", "list").stdout
    found = table("vectors", "neighbours", "words", "cat", "--count", "2")
    assert len(found["cat"]) == 2
    assert "cat: " in succeed("vectors", "neighbours", "words", "cat").stdout
    assert "cat, dog, saw: " in succeed("vectors", "analogy", "words", "cat", "dog", "saw").stdout
    shown = succeed("vectors", "map", "words").stdout
    assert "hammer" in shown
    assert max(map(len, shown.splitlines())) <= 78
    picture = tmp_path / "words.svg"
    succeed("vectors", "map", "words", *GROUPS[0], "-o", picture)
    assert "<svg" in picture.read_text()
    assert set(table("vectors", "map", "words", *GROUPS[1])) == set(GROUPS[1])
    assert "not among the 25 words" in fail("vectors", "neighbours", "words", "whale").message
    assert "already" in fail("vectors", "train", "words", "--data", data).message
    assert "Removed words" in succeed("vectors", "remove", "words", "--yes").stdout
    assert "no word vectors yet" in succeed("vectors", "list").stdout


def test_what_cannot_be_trained_or_read_is_refused(home: Path, data: Path, tmp_path: Path) -> None:
    train = ("vectors", "train", "words", "--data")
    rare = tmp_path / "rare.txt"
    rare.write_text("each word once\n")
    assert "occur 2 times" in fail(*train, rare).message
    single = tmp_path / "single.txt"
    single.write_text("one\ntwo\n" * 5)
    assert "No line has two words" in fail(*train, single, "--subsample", "0").message
    assert "--window must be" in fail(*train, data, "--window", "0").message
    assert VECTORS.all() == []
    succeed(*train, data, "--width", "4", "--epochs", "1")
    folder = VECTORS.get("words").path
    words = folder / "words.json"
    words.write_text(json.dumps(json.loads(words.read_text())[:-1]))
    with pytest.raises(ChatlmError, match="not as many vectors"):
        load_vectors("words")


def test_ctrl_c_saves_nothing(home: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chatlm.plugin_kit import progress

    monkeypatch.setattr(
        progress._LineProgress,
        "update",
        lambda self, done, total, note: os.kill(os.getpid(), signal.SIGINT),
    )
    error = fail("vectors", "train", "words", "--data", data)
    assert (error.message, error.exit_code) == ("Stopped.", 130)
    assert VECTORS.all() == []
