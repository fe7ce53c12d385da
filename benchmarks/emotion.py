"""Compare emotion classifiers: accuracy next to the textbook's figures, and cost.

    python -m benchmarks.emotion --data FOLDER [--out-of-domain FOLDER] [--rounds 3] [--json]

FOLDER has train.jsonl and val.jsonl of dair-ai/emotion. A missing classifier is
trained first, on train.jsonl alone (minutes to an hour each); it is stored with the user's own, so
that the next run only measures. val.jsonl is not used for training. The classifier that comes
with chatlm was also trained on everyday sentences; see its card. With `--out-of-domain`, it is also
measured on texts from other sources (`benchmarks.emotion_domains`); `--only-shipped` measures no
other classifier.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.emotion_domains import out_of_domain
from benchmarks.tools_replies import wilson
from chatlm import ensure_model, expand_path
from chatlm.plugin_kit.training import training_display
from chatlm.text import dump_json
from chatlm_emotion import card, examples
from chatlm_emotion import card as card_module
from chatlm_emotion.bert_encoder import BertClassifier
from chatlm_emotion.card import ClassifierCard
from chatlm_emotion.classifier import (
    Classifier,
    EncoderScorer,
    load_classifier,
    resolve_base_model,
)
from chatlm_emotion.domain_shift import DomainShift
from chatlm_emotion.evaluation import evaluate
from chatlm_emotion.examples import LabelledDataset
from chatlm_emotion.network_weights import load_tensors
from chatlm_emotion.recipe import DEFAULT_BASES, METHOD_DEFAULTS, Method, Recipe
from chatlm_emotion.train_pipeline import TrainingJob, train_classifier

EVERYDAY = Path(__file__).parent / "everyday.jsonl"
"""Everyday sentences written for this benchmark: 100 without a mood, 10 per mood."""

TIMED = 50
"""Texts per round, classified one at a time as in a chat."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    name: str
    """The classifier's name."""
    method: Method | None
    """None for the one that comes with chatlm."""
    settings: dict[str, Any]
    book: float | None
    """The book's accuracy; None if it reports none."""


ROWS = (
    Row("bag of words, unigrams (5.3.1)", "bench-unigrams", "baseline", {"ngrams": 1}, 0.8855),
    Row("bag of words, bigrams (5.3.1)", "bench-bigrams", "baseline", {"ngrams": 2}, 0.8910),
    Row("generation, LoRA (5.5.2)", "bench-generate", "generate", {}, 0.9420),
    Row("head, LoRA (5.6)", "bench-head", "head", {}, 0.9460),
    Row("encoder, LoRA: mood, comes with chatlm", card_module.DEFAULT_CLASSIFIER, None, {}, None),
)


def train_if_missing(row: Row, data: Path) -> Classifier:
    """Load the row's classifier; train it first if it does not exist."""
    existing = {place.name for place in card_module.CLASSIFIERS.all()}
    if row.method is not None and row.name not in existing:
        base = None if row.method == "baseline" else ensure_model(DEFAULT_BASES[row.method])
        order = TrainingJob(
            name=row.name,
            attribute="mood",
            dataset=examples.read_dataset([data / "train.jsonl"]),
            recipe=Recipe(method=row.method, **METHOD_DEFAULTS[row.method] | row.settings),
            base=base,
            threshold=0.5,
            command="python -m benchmarks.emotion",
        )
        print(f"training: {row.title}", flush=True)
        with training_display() as listener:
            train_classifier(order, listener, lambda: False)
    place = card_module.CLASSIFIERS.get(row.name)
    if base_name := card.read_card(place.path).base:
        ensure_model(base_name)
    return load_classifier(place)


def time_texts(classifier: Classifier, texts: list[str]) -> float:
    """Return the milliseconds per text, classified one at a time."""
    start = time.perf_counter()
    for text in texts:
        classifier.probabilities([text])
    return (time.perf_counter() - start) * 1000 / len(texts)


def measure(
    row: Row, classifier: Classifier, val: LabelledDataset, speeds: list[float]
) -> dict[str, Any]:
    """Return the measurements of one row of the table."""
    found = evaluate(classifier, val).to_dict()
    known = classifier.card
    return {
        "title": row.title,
        "book": row.book,
        "accuracy": found["accuracy"],
        "interval": found["intervals"]["accuracy"],
        "macro_f1": found["macro_f1"],
        "ece": found["ece"],
        "ms": statistics.median(speeds),
        "ms_best": min(speeds),
        "ms_worst": max(speeds),
        "train_seconds": known.cost.get("seconds"),
        "bytes": card_module.CLASSIFIERS.get(row.name).size_bytes,
    }


def main() -> None:
    """Train missing classifiers, then measure all of them interleaved."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="Folder with train.jsonl and val.jsonl.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="Accuracy against speed, .png, .svg or .pdf.")
    parser.add_argument("--out-of-domain", help="Folder with GoEmotions and ISEAR.")
    parser.add_argument("--texts", type=int, default=1000, help="Of each kind and collection.")
    parser.add_argument("--only-shipped", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    data = expand_path(given.data)
    rows_to_measure = [row for row in ROWS if row.method is None or not given.only_shipped]
    loaded = [(row, train_if_missing(row, data)) for row in rows_to_measure]
    val = examples.read_dataset([data / "val.jsonl"])
    texts = [row.text for row in val.rows[:TIMED]]
    speeds: dict[str, list[float]] = {row.name: [] for row in ROWS}
    for classifier in (classifier for _, classifier in loaded):
        time_texts(classifier, texts[:5])  # warm
    for _ in range(given.rounds):
        for row, classifier in loaded:
            speeds[row.name].append(time_texts(classifier, texts))
    rows = [measure(row, each, val, speeds[row.name]) for row, each in loaded]
    everyday = evaluate(loaded[-1][1], examples.read_dataset([EVERYDAY])).to_dict()
    known = loaded[-1][1].card
    collections = [("dair-ai/emotion, val", val)]
    if given.out_of_domain:
        folder = expand_path(given.out_of_domain)
        collections += out_of_domain(folder, known.labels, given.texts)
    encoder = shipped_encoder()
    domains = [measure_domain(title, known, encoder, each) for title, each in collections]
    if given.picture:
        draw(rows, given.picture)
    if given.json:
        print(dump_json({"rows": rows, "everyday": everyday, "domains": domains}))
        return
    print(f"{len(val.rows):,} texts of val.jsonl; ms a text, alone and warm: median (best–worst)")
    print("| method | accuracy (95 %) | the book | macro-F1 | ECE | ms a text | training | size |")
    print("|---|---|---|---|---|---|---|---|")
    for line in rows:
        low, high = line["interval"]
        seconds = line["train_seconds"]
        cost = f"{seconds / 60:,.1f} min" if seconds else ""
        print(
            f"| {line['title']} | {line['accuracy']:.4f} ({low:.3f}–{high:.3f}) "
            f"| {line['book'] or '':.6} | {line['macro_f1']:.3f} | {line['ece']:.3f} "
            f"| {line['ms']:.1f} ({line['ms_best']:.1f}–{line['ms_worst']:.1f}) | {cost} "
            f"| {line['bytes'] / 1e6:.1f} MB |"
        )
    print(
        f"Everyday sentences with {card_module.DEFAULT_CLASSIFIER}: unsure of "
        f"{everyday['unsure_without_label']:.0%} of {everyday['without_label']} without a mood; "
        f"of {everyday['texts']} with one {everyday['accuracy']:.0%} right, "
        f"unsure of {everyday['unsure']:.0%}"
    )
    print_domains(domains)


def measure_domain(
    title: str, card: ClassifierCard, encoder: EncoderScorer, dataset: LabelledDataset
) -> dict[str, Any]:
    """Return the measurements of a classifier on one collection, with and without its softening of
    probabilities in texts unlike those that it was trained on."""
    found = evaluate(Classifier(card, Remembered(encoder, encoder.shift)), dataset).to_dict()
    plain = evaluate(Classifier(card, Remembered(encoder, None)), dataset).to_dict()
    unsure_of_neutral = found["unsure_without_label"] * found["without_label"]
    unsure = unsure_of_neutral + found["unsure"] * found["texts"]
    right = round(found["neutral_without_label"] * found["without_label"])
    called = right + round(found["neutral"] * found["texts"])
    return {
        "title": title,
        "texts": found["texts"],
        "accuracy": found["accuracy"],
        "accuracy_interval": found["intervals"]["accuracy"],
        "macro_f1": found["macro_f1"],
        "ece": found["ece"],
        "ece_interval": found["intervals"]["ece"],
        "ece_without_shift": plain["ece"],
        "sure_accuracy": found["sure_accuracy"],
        "unsure": found["unsure"],
        "neutral": found["without_label"],
        "unsure_of_neutral": found["unsure_without_label"],
        "neutral_of_unsure": unsure_of_neutral / unsure if unsure else None,
        "called_neutral": called,
        "neutral_of_called": right / called if called else None,
        "neutral_of_called_interval": wilson(right, called) if called else None,
        "neutral_found": found["neutral_without_label"],
    }


def shipped_encoder() -> Remembered:
    """Return the encoder of the classifier that comes with chatlm."""
    place = card_module.CLASSIFIERS.get(card_module.DEFAULT_CLASSIFIER)
    base = resolve_base_model(card_module.read_card(place.path))
    trained = BertClassifier(base.folder, load_tensors(place.path), lora_scale=2.0, max_tokens=128)
    return Remembered(trained, trained.shift)


class Remembered:
    """An encoder that computes each text once.

    Args:
        encoder: computes the logits and states.
        shift: how unlike the training texts a text is; None to leave that out.
    """

    def __init__(self, encoder: EncoderScorer, shift: DomainShift | None) -> None:
        self._encoder = encoder
        self.shift = shift
        self._known: dict[str, tuple[Any, Any]] = {}

    def logits(self, texts: Sequence[str]) -> Any:
        """Return logits, `(len(texts), labels)`."""
        return self.logits_and_states(texts)[0]

    def are_neutral(self, texts: Sequence[str], states: Any) -> NDArray[np.bool_]:
        """Return which texts are neutral, from their states."""
        return self._encoder.are_neutral(texts, states)

    def logits_and_states(self, texts: Sequence[str]) -> tuple[Any, Any]:
        """Return logits, `(len(texts), labels)`, and states, `(len(texts), width)`."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            self._known |= dict(
                zip(new, zip(*self._encoder.logits_and_states(new), strict=True), strict=True)
            )
        logits, states = zip(*(self._known[text] for text in texts), strict=True)
        return np.stack(logits), np.stack(states)


def print_domains(domains: Sequence[dict[str, Any]]) -> None:
    """Print a row for each collection."""
    print(f"\n{card_module.DEFAULT_CLASSIFIER} in and out of domain; in brackets without its shift")
    print(
        "| texts | number | accuracy (95 %) | macro-F1 | ECE | right if sure | unsure "
        "| unsure of neutral ones | right where neutral | neutral ones found |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in domains:
        low, high = row["accuracy_interval"]
        neutral = f"{row['unsure_of_neutral']:.0%} of {row['neutral']}" if row["neutral"] else ""
        right = f" of {row['called_neutral']}"
        if row["neutral_of_called"] is not None:
            low_right, high_right = row["neutral_of_called_interval"]
            right = f"{row['neutral_of_called']:.0%} ({low_right:.2f}–{high_right:.2f}){right}"
        found = f"{row['neutral_found']:.0%}" if row["neutral"] else ""
        print(
            f"| {row['title']} | {row['texts']:,} | {row['accuracy']:.3f} ({low:.3f}–{high:.3f}) "
            f"| {row['macro_f1']:.3f} | {row['ece']:.3f} ({row['ece_without_shift']:.3f}) "
            f"| {row['sure_accuracy']:.3f} | {row['unsure']:.0%} | {neutral} | {right} | {found} |"
        )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against milliseconds, the book's figures as lines."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 4.5), layout="constrained")
    axes = picture.subplots()
    for row in rows:
        low, high = row["interval"]
        error = [[row["accuracy"] - low], [high - row["accuracy"]]]
        axes.errorbar(row["ms"], row["accuracy"], yerr=error, fmt="o", capsize=3)
        axes.annotate(row["title"], (row["ms"], row["accuracy"]), (6, 4),
                      textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds a text, one at a time")
    axes.set_ylabel("accuracy on val.jsonl, with 95 % intervals")
    axes.margins(x=0.25)
    axes.grid(alpha=0.3)
    picture.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
