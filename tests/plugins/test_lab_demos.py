"""The demos of the lab find what can be computed in another way, and are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from chatlm_lab.demo_command import NAMES
from chatlm_lab.demos import (
    AREAS,
    BUYS,
    CUSTOMERS,
    DEMOS,
    DOCUMENTS,
    PRICES,
    bag_of_words,
    make_line_images,
)
from tests.plugins.test_lab_commands import fail, run, succeed, table


def test_linear_regression_ends_at_the_values_of_the_book() -> None:
    found = table("demo", "linear-regression")
    assert (round(found["w"], 2), round(found["b"], 2)) == (2.58, -91.76)
    exact = np.polyfit(AREAS, PRICES, 1)
    assert [found["w"], found["b"]] == pytest.approx(exact, rel=1e-6)
    assert (np.diff(found["losses"]) <= 1e-12 * found["losses"][0]).all()
    assert "w = 2.58, b = -91.76" in succeed("demo", "linear-regression").stdout


def test_logistic_regression_divides_the_customers_along_the_line_of_scikit_learn() -> None:
    found = table("demo", "logistic-regression")
    assert (found["right"], found["customers"]) == (12, 12)
    assert (np.diff(found["losses"]) <= 1e-12 * found["losses"][0]).all()
    other = LogisticRegression(C=1e9, max_iter=10_000).fit(CUSTOMERS, BUYS)
    assert other.score(CUSTOMERS, BUYS) == 1
    own, theirs = np.array(found["w"]), other.coef_[0]
    cosine = own @ theirs / np.linalg.norm(own) / np.linalg.norm(theirs)
    assert cosine > 0.95


def test_a_perceptron_with_a_hidden_layer_learns_exclusive_or() -> None:
    assert table("demo", "mlp")["probabilities"] == pytest.approx([0, 1, 1, 0], abs=0.05)


def test_filters_tell_lines_apart_in_other_images() -> None:
    found = table("demo", "cnn")
    assert found["right"] >= 0.9 * found["images"]
    assert np.shape(found["filters"]) == (4, 3, 3)
    images, vertical = make_line_images(50, 5)
    assert 10 < vertical.sum() < 40
    brightest = [max(image.sum(axis), key=abs) for image in images for axis in (0, 1)]
    columns, rows = np.array(brightest).reshape(-1, 2).T
    assert ((columns > rows) == (vertical == 1)).all()


def test_words_of_ten_texts_say_the_topics_of_others() -> None:
    found = table("demo", "bag-of-words")
    assert len(found["vocabulary"]) == 26
    first, second = found["new"].values()
    assert max(first, key=first.get) == "music"
    assert max(second, key=second.get) == "science"
    assert sum(first.values()) == pytest.approx(1)
    row = bag_of_words([DOCUMENTS[1][0] + " Fun, FUN!"], found["vocabulary"])[0]
    words = [word for word, there in zip(found["vocabulary"], row, strict=True) if there]
    assert words == ["fun", "great", "is", "movies", "watching"]
    assert "10 of 10 texts" in succeed("demo", "bag-of-words").stdout


def test_demos_are_listed_and_drawn(tmp_path: Path) -> None:
    assert list(DEMOS) == list(NAMES) == [row["name"] for row in table("demo")]
    assert "section 2.1" in succeed("demo").stdout
    for name in NAMES:
        path = tmp_path / f"{name}.png"
        shown = succeed("demo", name, "-o", path).stdout
        assert path.read_bytes().startswith(b"\x89PNG")
        assert any("⠀" < sign < "⣿" for sign in shown)
        assert f"Drawn into {path}" in shown
    assert "neither" in fail("demo", "mlp", "-o", tmp_path / "mlp.gif").message
    assert "nothing to draw" in fail("demo", "-o", tmp_path / "x.png").message
    assert "is not one of" in run("demo", "perceptron").output
