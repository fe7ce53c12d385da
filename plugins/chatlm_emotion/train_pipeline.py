"""From an order to a classifier's folder: read, split, train, calibrate, measure, keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from chatlm import ModelLocation, UsageError, fingerprint_weights
from chatlm_emotion import baseline, card, examples, metrics
from chatlm_emotion.card import CLASSIFIERS, ClassifierCard
from chatlm_emotion.classifier import Classifier, Scorer
from chatlm_emotion.examples import LabelledDataset, LabelledExample
from chatlm_emotion.recipe import Recipe
from chatlm_emotion.watching import ClassifierProgress, ProgressListener


@dataclass(frozen=True)
class TrainingJob:
    """What is to be made."""

    name: str
    tells: str
    data: LabelledDataset
    recipe: Recipe
    base: ModelLocation | None
    """None for a baseline."""
    threshold: float
    teachers: tuple[Classifier, ...] = ()
    """What they say of each text is learnt besides its label; they tell the data's labels."""
    certain: frozenset[str] = frozenset()
    """The texts of the data that they are not asked about."""
    validation: LabelledDataset | None = None
    """What the checks classify; None for the held-out part of the data."""
    description: str = ""
    licence: str = ""
    command: str = ""


def train_classifier(
    order: TrainingJob, watcher: ProgressListener, stopped: Callable[[], bool]
) -> ClassifierCard:
    """Train a classifier and put it into its place.

    Args:
        order: what to make.
        watcher: is shown how far it is.
        stopped: whether the person wants it to end; the best so far is kept then.

    Returns:
        Its card.

    Raises:
        UsageError: the name is taken, a label has too few texts, or the validation has another.
        ChatlmError: the disk is full, or the base cannot be loaded.
    """
    place = CLASSIFIERS.free(order.name)
    for teacher in order.teachers:
        if teacher.card.labels != order.data.labels:
            raise UsageError(
                f"The teacher {teacher.card.name} tells {', '.join(teacher.card.labels)}, and not "
                f"{', '.join(order.data.labels)} as the data does.",
            )
    learn, held_out = examples.split_held_out(
        order.data.rows, order.recipe.held_out, order.recipe.seed
    )
    _require_examples(learn, order.data.labels)
    held_out = [row for row in held_out if row.label is not None]
    start = time.monotonic()
    checked = (
        held_out if order.validation is None else _validation_rows(order.validation, order.data)
    )
    scorer, save, progress = _train_scorer(order, learn, checked, watcher, stopped)
    progress.note = "measuring"
    watcher.changed(progress)
    scores = np.asarray(scorer.scores([row.text for row in held_out]))
    truth = [order.data.labels.index(row.label or "") for row in held_out]
    warmth = metrics.fit_temperature(scores, truth)
    measured = metrics.score_predictions(metrics.softmax(scores, warmth), truth, order.data.labels)
    made = ClassifierCard(
        name=order.name,
        tells=order.tells,
        method=order.recipe.method,
        labels=order.data.labels,
        temperature=warmth,
        threshold=order.threshold,
        base=order.base.name if order.base else "",
        fingerprint=fingerprint_weights(order.base.folder) if order.base else "",
        description=order.description,
        licence=order.licence,
        command=order.command,
        source={
            "data": list(order.data.names),
            "sha256": order.data.sha256,
            "learnt_from": len(learn),
            "held_out": len(held_out),
            "without_label": sum(row.label is None for row in learn),
            "repeated": order.data.repeated,
            "teachers": [teacher.card.name for teacher in order.teachers],
            "validation": list(order.validation.names) if order.validation else [],
        },
        settings=order.recipe.to_dict(),
        scores={
            "accuracy": measured.accuracy.value,
            "macro_f1": measured.macro_f1.value,
            "ece": measured.ece.value,
        },
        cost={
            "seconds": round(time.monotonic() - start, 1),
            "steps": progress.step,
            "best_step": progress.best.step if progress.best else progress.step,
            "ended": progress.ended,
            "curve": [check.to_dict() for check in progress.checks],
        },
        versions={name: version(name) for name in ("torch", "transformers", "scikit-learn")},
    )
    with CLASSIFIERS.making(place) as new:
        save(new)
        card.write_card(made, new)
    return made


def _validation_rows(validation: LabelledDataset, data: LabelledDataset) -> list[LabelledExample]:
    if unknown := sorted(set(validation.labels) - set(data.labels)):
        raise UsageError(
            f"{', '.join(validation.names)} has the label {unknown[0]!r}, which no text to learn "
            "from has.",
        )
    return [row for row in validation.rows if row.label is not None]


def _require_examples(learn: list[LabelledExample], labels: tuple[str, ...]) -> None:
    have = examples.count_labels(learn)
    for label in labels:
        if not have.get(label):
            raise UsageError(
                f"The label {label!r} has one text only.", hint="Give each label some texts."
            )


def _train_scorer(
    order: TrainingJob,
    learn: list[LabelledExample],
    held_out: list[LabelledExample],
    watcher: ProgressListener,
    stopped: Callable[[], bool],
) -> tuple[Scorer, Callable[..., None], ClassifierProgress]:
    """What scores, what saves it, and what happened."""
    progress = ClassifierProgress(note="learning")
    watcher.changed(progress)
    if order.recipe.method == "baseline":
        model = baseline.fit_baseline(learn, order.data.labels, order.recipe)
        return model, model.save, progress
    return _train_network(order, learn, held_out, watcher, stopped)


def _train_network(
    order: TrainingJob,
    learn: list[LabelledExample],
    held_out: list[LabelledExample],
    watcher: ProgressListener,
    stopped: Callable[[], bool],
) -> tuple[Scorer, Callable[..., None], ClassifierProgress]:
    from chatlm import fast_dtype
    from chatlm_emotion import network_weights
    from chatlm_emotion.networks import NETWORKS
    from chatlm_emotion.training import NetworkScorer, fit_network

    recipe = order.recipe
    if recipe.method == "generate":
        learn = [row for row in learn if row.label is not None]  # nothing could be written of it
    # an embedder is small: its weights stay as exact as they are
    dtype = "float32" if recipe.method == "encoder" else fast_dtype("cpu")
    base: Any = order.base
    network: Any = NETWORKS[recipe.method](base, order.data.labels, recipe, dtype)
    taught = _teacher_probabilities(order, learn, watcher, stopped)
    progress = fit_network(network, learn, held_out, recipe, watcher, stopped, taught)
    learnt = {
        name: value.half().float()
        for name, value in network_weights.with_stored_names(network.learnt()).items()
    }
    network_weights.load_into_network(network, learnt)  # what is measured is what is kept
    return (
        NetworkScorer(network),
        lambda folder: network_weights.save_tensors(learnt, folder),
        progress,
    )


def _teacher_probabilities(
    order: TrainingJob,
    learn: Sequence[LabelledExample],
    watcher: ProgressListener,
    stopped: Callable[[], bool],
) -> dict[str, NDArray[np.float64]]:
    """How likely the teachers together find each label, of the texts that they are asked about."""
    if not order.teachers:
        return {}
    texts = [row.text for row in learn if row.text not in order.certain]
    progress = ClassifierProgress(
        steps=len(texts) * len(order.teachers), note="texts read by the teachers"
    )

    def more(count: int) -> None:
        progress.step += count
        watcher.changed(progress)
        if stopped():
            raise click.Abort

    together = np.mean([each.probabilities(texts, more) for each in order.teachers], axis=0)
    return dict(zip(texts, together, strict=True))
