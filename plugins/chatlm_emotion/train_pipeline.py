"""Train a classifier: split the data, train, calibrate, evaluate and save."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlm import ModelLocation, TrainingCheckpoint, UsageError, fingerprint_weights
from chatlm.plugin_kit.training import EvaluatedProgress, ProgressListener
from chatlm_emotion import baseline, card, examples, metrics
from chatlm_emotion.card import CLASSIFIERS, RUNS, ClassifierCard
from chatlm_emotion.classifier import Classifier, Scorer
from chatlm_emotion.domain_shift import FITTED_TEXTS, DomainShift
from chatlm_emotion.examples import LabelledDataset, LabelledExample
from chatlm_emotion.neutral import NeutralProbe
from chatlm_emotion.recipe import Recipe


@dataclass(frozen=True)
class TrainingJob:
    """One classifier to train: name, data, base model and hyperparameters."""

    name: str
    attribute: str
    dataset: LabelledDataset
    recipe: Recipe
    base: ModelLocation | None
    """None for a baseline."""
    threshold: float
    teachers: tuple[Classifier, ...] = ()
    """Classifiers of the same labels whose probabilities are distilled."""
    trusted_texts: frozenset[str] = frozenset()
    """Texts that are trained on their own labels, not on the teachers'."""
    validation: LabelledDataset | None = None
    """Data for early stopping; None for the held-out part of the data."""
    description: str = ""
    licence: str = ""
    command: str = ""

    def plan(self) -> dict[str, Any]:
        """Return everything that determines the result; a run continues only if it is equal."""
        trusted = "\n".join(sorted(self.trusted_texts)).encode("utf-8", "surrogatepass")
        return {
            "attribute": self.attribute,
            "base": self.base.name if self.base else "",
            "data": self.dataset.sha256,
            "recipe": self.recipe.to_dict(),
            "teachers": [teacher.card.name for teacher in self.teachers],
            "trusted": hashlib.sha256(trusted).hexdigest(),
            "validation": self.validation.sha256 if self.validation else "",
        }


def train_classifier(
    job: TrainingJob,
    listener: ProgressListener,
    should_stop: Callable[[], bool],
    *,
    options: Mapping[str, Any] | None = None,
    restart: bool = False,
    finish: bool = False,
) -> ClassifierCard:
    """Train a classifier and save it.

    Args:
        job: what to train.
        listener: receives the progress.
        should_stop: called after each step; when it is true, a checkpoint is saved.
        options: stored with a new run, see `TrainingRuns.options`.
        restart: discard a run that was stopped, instead of continuing it.
        finish: do not train, but save the best weights of a run that was stopped.

    Returns:
        The classifier's card.

    Raises:
        UsageError: the name is taken, a label has too few texts, the validation data has
            another label, or there is no checkpoint to finish with.
        TrainingStopped: `should_stop` was true after a step.
        KeyboardInterrupt: `should_stop` was true before the first step.
        ChatlmError: the disk is full, or the base model cannot be loaded.
    """
    CLASSIFIERS.new(job.name)
    with RUNS.open(job.name, job.plan(), options, restart=restart) as folder:
        return _train_and_save(
            job, listener, should_stop, TrainingCheckpoint(folder), finish=finish
        )


def _train_and_save(
    job: TrainingJob,
    listener: ProgressListener,
    should_stop: Callable[[], bool],
    checkpoint: TrainingCheckpoint,
    *,
    finish: bool,
) -> ClassifierCard:
    place = CLASSIFIERS.new(job.name)
    for teacher in job.teachers:
        if teacher.card.labels != job.dataset.labels:
            raise UsageError(
                f"The teacher {teacher.card.name} has the labels "
                f"{', '.join(teacher.card.labels)}, not "
                f"{', '.join(job.dataset.labels)} as the data.",
            )
    learn, held_out = examples.split_held_out(
        job.dataset.rows, job.recipe.held_out, job.recipe.seed
    )
    _require_examples(learn, job.dataset.labels)
    held_out = [row for row in held_out if row.label is not None]
    start = time.monotonic()
    checked = held_out if job.validation is None else _validation_rows(job.validation, job.dataset)
    if job.recipe.method == "baseline":
        scorer, save, progress = _fit_baseline(job, learn, listener)
    else:
        scorer, save, progress = _train_network(
            job, learn, checked, listener, should_stop, checkpoint, finish=finish
        )
    progress.activity = "measuring"
    listener.update(progress)
    held_out_texts = [row.text for row in held_out]
    scores = np.asarray(scorer.logits(held_out_texts))
    truth = [job.dataset.labels.index(row.label or "") for row in held_out]
    warmth = metrics.fit_temperature(scores, truth)
    probabilities = metrics.softmax(scores, warmth)
    shift = neutral = None
    if job.recipe.method == "encoder":
        some = learn[:: max(len(learn) // FITTED_TEXTS, 1)]
        states, held_out_states = (
            _states(scorer, texts) for texts in ([row.text for row in some], held_out_texts)
        )
        if shift := DomainShift.fit(states, held_out_states):
            probabilities = shift.soften(probabilities, held_out_states)
        without = [row.text for row in learn if row.label is None]
        labelled = np.array([row.label is not None for row in some])
        if without and labelled.any():
            known = np.concatenate([states[labelled], _states(scorer, without)])
            neutral = NeutralProbe.fit(known, np.arange(len(known)) >= labelled.sum())
    measured = metrics.score_predictions(probabilities, truth, job.dataset.labels)
    made = ClassifierCard(
        name=job.name,
        attribute=job.attribute,
        method=job.recipe.method,
        labels=job.dataset.labels,
        temperature=warmth,
        threshold=job.threshold,
        base=job.base.name if job.base else "",
        fingerprint=fingerprint_weights(job.base.folder) if job.base else "",
        description=job.description,
        licence=job.licence,
        command=job.command,
        source={
            "data": list(job.dataset.file_names),
            "sha256": job.dataset.sha256,
            "learnt_from": len(learn),
            "held_out": len(held_out),
            "without_label": sum(row.label is None for row in learn),
            "repeated": job.dataset.duplicates,
            "teachers": [teacher.card.name for teacher in job.teachers],
            "validation": list(job.validation.file_names) if job.validation else [],
        },
        settings=job.recipe.to_dict(),
        scores={
            "accuracy": measured.accuracy.value,
            "macro_f1": measured.macro_f1.value,
            "ece": measured.ece.value,
        },
        cost={
            "seconds": round(time.monotonic() - start, 1),
            "steps": progress.step,
            "best_step": progress.best.step if progress.best else progress.step,
            "ended": progress.end_reason,
            "curve": [check.to_dict() for check in progress.eval_results],
        },
        versions={name: version(name) for name in ("torch", "transformers", "scikit-learn")},
    )
    with CLASSIFIERS.create(place) as new:
        extras = [each.to_arrays() for each in (shift, neutral) if each]
        save(new, **({"extras": extras} if extras else {}))
        card.write_card(made, new)
    return made


def _validation_rows(
    validation: LabelledDataset, dataset: LabelledDataset
) -> list[LabelledExample]:
    if unknown := sorted(set(validation.labels) - set(dataset.labels)):
        raise UsageError(
            f"{', '.join(validation.file_names)} has the label {unknown[0]!r}, which the "
            "training data lacks.",
        )
    return [row for row in validation.rows if row.label is not None]


def _require_examples(train_examples: list[LabelledExample], labels: tuple[str, ...]) -> None:
    have = examples.count_labels(train_examples)
    for label in labels:
        if not have.get(label):
            raise UsageError(
                f"The label {label!r} has only one text.", hint="Give each label more texts."
            )


def _fit_baseline(
    job: TrainingJob, train_examples: list[LabelledExample], listener: ProgressListener
) -> tuple[Scorer, Callable[..., None], EvaluatedProgress]:
    """Return the fitted scorer, a function that saves it, and the progress."""
    progress = EvaluatedProgress(activity="learning")
    listener.update(progress)
    model = baseline.fit_baseline(train_examples, job.dataset.labels, job.recipe)
    return model, model.save, progress


def _train_network(
    job: TrainingJob,
    train_examples: list[LabelledExample],
    held_out: list[LabelledExample],
    listener: ProgressListener,
    should_stop: Callable[[], bool],
    checkpoint: TrainingCheckpoint,
    *,
    finish: bool,
) -> tuple[Scorer, Callable[..., None], EvaluatedProgress]:
    """Return the trained scorer, a function that saves it, and the progress."""
    from transformers import set_seed

    from chatlm import fast_dtype
    from chatlm_emotion import network_weights
    from chatlm_emotion.networks import NETWORKS
    from chatlm_emotion.training import NetworkScorer, fit_network, load_best

    recipe = job.recipe
    listener.update(EvaluatedProgress(activity="loading the model"))
    if recipe.method == "generate":
        train_examples = [
            row for row in train_examples if row.label is not None
        ]  # there is no label to generate
    # an embedder is small enough for full precision
    dtype = "float32" if recipe.method == "encoder" else fast_dtype("cpu")
    base: Any = job.base
    set_seed(recipe.seed)  # the new matrices are random
    network: Any = NETWORKS[recipe.method](base, job.dataset.labels, recipe, dtype)
    if finish:
        found = load_best(network, held_out, checkpoint)
        if found is None:
            raise UsageError(
                f"The training of {job.name} was stopped before its first checkpoint.",
                hint="Continue it with the same command, without --finish.",
            )
        progress = found
    else:
        taught = _teacher_probabilities(job, train_examples, listener, should_stop)
        progress = fit_network(
            network, train_examples, held_out, recipe, listener, should_stop, checkpoint, taught
        )
        if progress.stopped:
            raise RUNS.stopped(job.name, progress.step, progress.total_steps)
    learnt = {
        name: value.half().float()
        for name, value in network_weights.with_stored_names(network.trainable_parameters()).items()
    }
    network_weights.load_into_network(network, learnt)  # evaluate the weights as they are saved
    return (
        NetworkScorer(network),
        lambda folder, extras=(): network_weights.save_tensors(
            {**learnt, **_tensors(extras)}, folder
        ),
        progress,
    )


def _states(scorer: Scorer, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the states of texts that a trained encoder reads."""
    from chatlm_emotion.training import NetworkScorer

    assert isinstance(scorer, NetworkScorer)  # noqa: S101  # of the method `encoder`
    return scorer.states(texts)


def _tensors(extras: Sequence[Mapping[str, NDArray[np.float32]]]) -> dict[str, Any]:
    """Return what a classifier stores of its domain shift and its neutral probe."""
    import torch

    return {name: torch.from_numpy(value) for each in extras for name, value in each.items()}


def _teacher_probabilities(
    job: TrainingJob,
    train_examples: Sequence[LabelledExample],
    listener: ProgressListener,
    should_stop: Callable[[], bool],
) -> dict[str, NDArray[np.float64]]:
    """Return the teachers' mean probabilities of the labels, by text."""
    if not job.teachers:
        return {}
    texts = [row.text for row in train_examples if row.text not in job.trusted_texts]
    progress = EvaluatedProgress(activity="texts read by the teachers")
    progress.start(0, len(texts) * len(job.teachers))

    def more(count: int) -> None:
        progress.step += count
        listener.update(progress)
        if should_stop():
            raise KeyboardInterrupt

    together = np.mean([each.probabilities(texts, more) for each in job.teachers], axis=0)
    return dict(zip(texts, together, strict=True))
