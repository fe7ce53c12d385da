"""Texts with emotions from other sources than tweets, for `benchmarks.emotion`.

- GoEmotions (Demszky et al. 2020, Apache-2.0): comments of a forum, with Ekman's emotions, as in
  `data/ekman` of github.com/monologg/GoEmotions-pytorch: `goemotions_test.tsv` and
  `goemotions_labels.txt`. Texts with several emotions, and those with disgust, are left out.
- ISEAR (Scherer and Wallbott 1994; for research): situations in which people felt an emotion, as in
  github.com/sinmaniphel/py_isear_dataset: `isear.csv`. Disgust, guilt and shame are left out.
- MELD (Poria et al. 2019, GPL-3.0): lines of a television series, as in `data/MELD` of
  github.com/declare-lab/MELD: `meld_test.csv`. Disgust is left out.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from chatlm_emotion.examples import LabelledDataset, LabelledExample

NEUTRAL = "neutral"

_SHORTEST_SITUATION = 16
"""Shorter situations of ISEAR say that there is none."""


def go_emotions(folder: Path, labels: Sequence[str]) -> list[LabelledExample]:
    """Return the texts of GoEmotions with one of the labels, or with none if they are neutral."""
    texts = all_go_emotions(folder, "test")
    return [row for row in texts if row.label is None or row.label in labels]


def all_go_emotions(folder: Path, split: str) -> list[LabelledExample]:
    """Return all texts of GoEmotions; several emotions of a text are one label, joined by commas.

    Args:
        folder: with the files.
        split: `test` or `dev`.
    """
    names = (folder / "goemotions_labels.txt").read_text(encoding="utf-8").split()
    found = []
    for line in (folder / f"goemotions_{split}.tsv").read_text(encoding="utf-8").splitlines():
        text, numbers, *_ = line.split("\t")
        name = ",".join(names[int(number)] for number in numbers.split(","))
        found.append(LabelledExample(text, None if name == NEUTRAL else name))
    return found


def isear(folder: Path, labels: Sequence[str]) -> list[LabelledExample]:
    """Return the situations of ISEAR with one of the labels."""
    found = []
    with (folder / "isear.csv").open(encoding="latin1", newline="") as file:
        for row in csv.DictReader(file, delimiter="|"):
            text = " ".join((row.get("SIT") or "").split())
            if row.get("Field1") in labels and len(text) >= _SHORTEST_SITUATION:
                found.append(LabelledExample(text, row["Field1"]))
    return found


def meld(folder: Path, labels: Sequence[str]) -> list[LabelledExample]:
    """Return the lines of MELD with one of the labels, or with none if they are neutral."""
    found = []
    with (folder / "meld_test.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["Emotion"] in (*labels, NEUTRAL):
                name = None if row["Emotion"] == NEUTRAL else row["Emotion"]
                found.append(LabelledExample(row["Utterance"], name))
    return found


def out_of_domain(
    folder: Path, labels: Sequence[str], count: int
) -> list[tuple[str, LabelledDataset]]:
    """Return the collections by name, at most `count` texts of each kind, drawn at random."""
    return [
        ("GoEmotions, comments", _sample(go_emotions(folder, labels), count, "GoEmotions")),
        ("ISEAR, situations", _sample(isear(folder, labels), count, "ISEAR")),
        ("MELD, a series", _sample(meld(folder, labels), count, "MELD")),
    ]


def _sample(rows: Iterable[LabelledExample], count: int, name: str) -> LabelledDataset:
    distinct = list({row.text: row for row in rows}.values())
    draw = random.Random(0)  # noqa: S311 - no secret
    chosen = []
    for neutral in (False, True):
        kind = [row for row in distinct if (row.label is None) == neutral]
        chosen += draw.sample(kind, min(count, len(kind)))
    labels = sorted({row.label for row in chosen if row.label is not None})
    return LabelledDataset(tuple(chosen), (name,), "", labels=tuple(labels))
