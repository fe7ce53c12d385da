"""Examples are read and split without loss; measures are those of scikit-learn and the papers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm import UsageError
from chatlm_emotion import baseline, examples, metrics
from chatlm_emotion.examples import LabelledExample
from chatlm_emotion.panel import PanelLabel, find_label, leading_labels, measure_agreement
from chatlm_emotion.recipe import Recipe

MOODS = ("anger", "joy", "sadness")


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- reading -----------------------------------------------------------------------------------


def test_rows_of_several_files_count_once(tmp_path: Path) -> None:
    one = lines(tmp_path / "one.jsonl", {"text": "a", "label": "x"}, {"text": "a", "label": "x"})
    two = lines(tmp_path / "two.jsonl", {"text": "a", "label": "y"}, {"text": "b", "label": None})
    read = examples.read_dataset([one, two])
    assert read.rows == (
        LabelledExample("a", "x"),
        LabelledExample("a", "y"),
        LabelledExample("b", None),
    )
    assert (read.labels, read.duplicates, read.file_names) == (
        ("x", "y"),
        1,
        ("one.jsonl", "two.jsonl"),
    )
    assert examples.count_labels(read.rows) == {"x": 1, "y": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{"text": "a", "label": "x"}\nno', "line 2: not JSON"),
        ("[" * 5000, "line 1: not JSON"),
        ("[1]", "line 1: not an object"),
        ('{"text": 1, "label": "x"}', "line 1: text must be"),
        ('{"text": " ", "label": "x"}', "line 1: text must be"),
        ('{"text": "a"}', "line 1: label must be"),
        ('{"text": "a", "label": ""}', "line 1: label must be"),
        ('{"text": "a", "label": 3}', "line 1: label must be"),
        ('{"text": "a", "label": "x"}', "has 1 label(s)"),
        ('\n{"text": "a\udcff", "label": "x"}', "line 2: not UTF-8"),
    ],
)
def test_a_wrong_file_is_reported_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as refused:
        examples.read_dataset([path])
    assert message in refused.value.message
    assert "bad.jsonl" in refused.value.message


def test_texts_of_lines_and_of_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert examples.read_texts(tmp_path / "a.txt") == ["one", "two"]
    path = lines(tmp_path / "b.jsonl", {"text": "three"}, {"text": "four", "label": "x"})
    assert examples.read_texts(path) == ["three", "four"]
    with pytest.raises(UsageError, match="cannot be read"):
        examples.read_texts(tmp_path / "gone")


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefghijkl"), st.sampled_from(["x", "y", None])),
        min_size=1,
        unique=True,
    ),
    st.floats(0.01, 0.9),
    st.integers(0, 5),
)
def test_a_split_loses_nothing_and_no_text_is_on_both_sides(
    pairs: list[tuple[str, str | None]], share: float, seed: int
) -> None:
    rows = [LabelledExample(*pair) for pair in pairs]
    learn, held = examples.split_held_out(rows, share, seed)
    assert sorted(learn + held, key=str) == sorted(rows, key=str)
    assert not {row.text for row in learn} & {row.text for row in held}
    assert examples.split_held_out(rows, share, seed) == (learn, held)


# --- measuring ---------------------------------------------------------------------------------


def test_measures_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix, f1_score

    chance = np.random.default_rng(1)
    truth = chance.integers(3, size=400)
    found = chance.dirichlet([1, 1, 1], size=400)
    found[np.arange(400), truth] += 0.4
    found /= found.sum(1, keepdims=True)
    scores = metrics.score_predictions(found, truth.tolist(), MOODS)
    chosen = found.argmax(1)
    assert np.array_equal(scores.confusion, confusion_matrix(truth, chosen))
    assert scores.macro_f1.value == pytest.approx(f1_score(truth, chosen, average="macro"))
    by_label = f1_score(truth, chosen, average=None)
    assert [each["f1"] for each in scores.per_label.values()] == pytest.approx(by_label)
    assert scores.accuracy.value == pytest.approx((truth == chosen).mean())
    for measure in (scores.accuracy, scores.macro_f1, scores.ece):
        assert measure.low <= measure.high
    assert scores.accuracy.low < scores.accuracy.value < scores.accuracy.high
    assert sum(each.count for each in scores.bins) == 400


def test_labels_that_do_not_occur_do_not_count() -> None:
    from sklearn.metrics import f1_score

    found = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0]])
    for truth in ([0, 1, 0], [0, 1, 1]):
        scores = metrics.score_predictions(found, truth, MOODS)
        expected = f1_score(truth, found.argmax(1), average="macro")
        assert scores.macro_f1.value == pytest.approx(expected)
    right = metrics.score_predictions(found[:1], [0], MOODS)
    assert (right.macro_f1.value, right.macro_f1.low, right.macro_f1.high) == (1, 1, 1)


def test_the_calibration_error_of_a_case_worked_by_hand() -> None:
    sure = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    # four in one bin: 0.95 against 0.75; two in another: 0.55 against 0.5
    assert metrics.calibration_error(sure, right) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)
    assert metrics.calibration_error(np.array([1.0]), np.array([True])) == 0


def test_the_temperature_undoes_what_made_scores_too_sure() -> None:
    chance = np.random.default_rng(2)
    scores = chance.normal(size=(20_000, 4)).astype(np.float32)
    shares = metrics.softmax(scores)
    truth = [int(chance.choice(4, p=row)) for row in shares]
    assert metrics.fit_temperature(scores * 3, truth) == pytest.approx(3, rel=0.1)
    assert metrics.softmax(scores * 3, 3.0) == pytest.approx(shares, abs=1e-5)
    huge = metrics.softmax(np.array([[1e5, 0.0]], dtype=np.float32))
    assert huge.tolist() == [[1.0, 0.0]]


# --- the baseline ------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [("no", "yes"), ("maybe", "no", "yes")])
def test_a_baseline_learns_and_is_the_same_when_loaded(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    words = {"no": "never not none", "yes": "sure fine good", "maybe": "perhaps possibly later"}
    rows = [LabelledExample(f"{word} {n}", each) for each in labels for n, word in
            enumerate(words[each].split() * 4)]  # fmt: skip
    rows.append(LabelledExample("stone", None))
    made = baseline.fit_baseline(rows, labels, Recipe(method="baseline", ngrams=1))
    scores = made.logits(["never", "sure", "unknown words"])
    assert [labels[row.argmax()] for row in scores[:2]] == ["no", "yes"]
    made.save(tmp_path)
    assert baseline.load_baseline(tmp_path, 1).logits(["never", "sure"]) == pytest.approx(
        scores[:2], abs=0.01
    )


# --- panels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        (" joy.", "joy"),
        (" not Anger but joy", "anger"),
        (" enjoyable", None),
        ("", None),
        (" joyful sadness", "sadness"),
    ],
)
def test_the_label_that_a_reply_names_first(reply: str, label: str | None) -> None:
    assert find_label(reply, MOODS) == label


def test_leaders() -> None:
    assert leading_labels(["a", "b", "a"]) == ["a"]
    assert leading_labels(["a", "b", None]) == ["a", "b"]
    assert leading_labels([None]) == []


def test_agreement_is_krippendorffs() -> None:
    # the nominal example of Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability",
    # with missing values: alpha = 0.691
    table = [
        "* * * * * 3 4 1 2 1 1 3 3 * 3",
        "1 * 2 1 3 3 4 3 * * * * * * *",
        "* * 2 1 3 4 4 * 2 1 1 3 3 * 4",
    ]
    columns = zip(*(row.split() for row in table), strict=True)
    found = [
        PanelLabel(str(n), None, tuple(None if each == "*" else each for each in column))
        for n, column in enumerate(columns)
    ]
    said = measure_agreement(found)
    assert said.alpha == pytest.approx(0.691, abs=5e-4)
    assert said.undecided == len(found)
    same = measure_agreement(
        [PanelLabel("a", "x", ("x", "x", "x")), PanelLabel("b", "y", ("y", "y", "y"))]
    )
    assert (same.alpha, same.unanimous_share, same.majority_share, same.abstention_share) == (
        1.0,
        1.0,
        1.0,
        0.0,
    )
    assert measure_agreement([PanelLabel("a", "x", ("x", "x", "x"))]).alpha is None
