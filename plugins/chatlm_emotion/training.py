"""Training loop of the networks: length-grouped batches, cosine schedule, early stopping."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup, set_seed

from chatlm import TrainingCheckpoint, fast_dtype
from chatlm.plugin_kit.training import EvalResult, EvaluatedProgress, ProgressListener
from chatlm_emotion.examples import LabelledExample
from chatlm_emotion.networks import EncoderNetwork, Network
from chatlm_emotion.recipe import Recipe

SORT_POOL_BATCHES = 50
"""Batches sorted by length together: little padding, and still a random order."""


def fit_network(
    network: Network,
    train_examples: Sequence[LabelledExample],
    held_out: Sequence[LabelledExample],
    recipe: Recipe,
    listener: ProgressListener,
    should_stop: Callable[[], bool],
    checkpoint: TrainingCheckpoint,
    teacher_probabilities: Mapping[str, NDArray[np.float64]] | None = None,
) -> EvaluatedProgress:
    """Train a network, or continue from a checkpoint, and restore its best weights.

    A run that continues ends like one that was not stopped.

    Args:
        network: the network.
        train_examples: examples to train on.
        held_out: labelled examples for evaluation.
        recipe: the hyperparameters.
        listener: receives the progress.
        should_stop: called after each step; when it is true, a checkpoint is saved.
        checkpoint: loaded if there is one, and saved after each evaluation.
        teacher_probabilities: probabilities of the labels, `(labels,)`, by text.

    Returns:
        The progress with all evaluations; its `stopped` tells whether training can continue later.
    """
    set_seed(recipe.seed)
    ids = network.encode([row.text for row in train_examples])
    targets = _soft_targets(train_examples, network.labels, recipe, teacher_probabilities or {})
    per_epoch = math.ceil(len(train_examples) / recipe.batch_size)
    total_steps = per_epoch * recipe.epochs
    progress = EvaluatedProgress()
    learnt = network.trainable_parameters()
    optimizer = torch.optim.AdamW(learnt.values(), lr=recipe.learning_rate, weight_decay=0.01)
    best = checkpoint.load(learnt, optimizer, progress.restore) or {}
    schedule = get_cosine_schedule_with_warmup(
        optimizer, round(recipe.warmup_ratio * total_steps), total_steps
    )
    schedule.last_epoch = progress.step  # which counts steps
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * schedule.lr_lambdas[0](progress.step)
    every = max(per_epoch // recipe.evals_per_epoch, 1)
    progress.start(progress.step, total_steps)
    batches = _epochs_of_batches([len(each) for each in ids], recipe)
    for rows in islice(batches, progress.step, None):
        network.train()
        with mixed_precision():
            loss = network.loss(network.pad_batch([ids[row] for row in rows]), targets[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt.values(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.add_step(loss.item(), sum(len(ids[row]) for row in rows))
        listener.update(progress)
        last = progress.step == total_steps
        evaluates = last or progress.step % every == 0
        if evaluates:
            if _evaluate(network, held_out, progress):
                best = {name: value.detach().clone() for name, value in learnt.items()}
            listener.update(progress)
            if last or progress.evals_since_best >= recipe.patience:
                break
        progress.stopped = should_stop()
        if evaluates or progress.stopped:
            checkpoint.save(learnt, best, optimizer, progress.to_dict())
        if progress.stopped:
            break
    _restore_parameters(learnt, best)
    return progress


def load_best(
    network: Network, held_out: Sequence[LabelledExample], checkpoint: TrainingCheckpoint
) -> EvaluatedProgress | None:
    """Load the best weights of a run that was stopped into the network.

    The newest weights may be better than those of the best evaluation, since Ctrl-C saves them
    without an evaluation.

    Returns:
        The progress with all evaluations; None if there is no checkpoint.
    """
    progress = EvaluatedProgress(end_reason="stopped by the user")
    learnt = network.trainable_parameters()
    best = checkpoint.load(learnt, None, progress.restore)
    if best is None:
        return None
    evaluated = bool(progress.eval_results) and progress.eval_results[-1].step == progress.step
    if evaluated or not _evaluate(network, held_out, progress):
        _restore_parameters(learnt, best)
    return progress


def _epochs_of_batches(lengths: Sequence[int], recipe: Recipe) -> Iterator[list[int]]:
    """Yield the batches of all epochs, which the recipe alone determines."""
    chance = random.Random(recipe.seed)  # noqa: S311  # no secret
    for _ in range(recipe.epochs):
        yield from _length_grouped_batches(lengths, recipe.batch_size, chance)


class NetworkScorer:
    """Scores texts with a trained network.

    Args:
        network: the network.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return logits, `(len(texts), labels)`."""
        return predict_logits(self._network, texts)

    def states(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the state that the head reads of each text, `(len(texts), width)`.

        Raises:
            TypeError: the network is no encoder.
        """
        if not isinstance(self._network, EncoderNetwork):
            raise TypeError("only an encoder has states")
        return mean_states(self._network, texts)


def mean_states(network: EncoderNetwork, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the encoder's mean state of each text, `(len(texts), width)`."""
    network.eval()
    ids = network.encode(texts)
    with torch.inference_mode(), mixed_precision():
        return np.concatenate(
            [
                network.pool(network.pad_batch(ids[begin : begin + 32])).float().numpy()
                for begin in range(0, len(ids), 32)
            ]
        )


def predict_logits(
    network: Network, texts: Sequence[str], batch_size: int = 32
) -> NDArray[np.float32]:
    """Return logits, `(len(texts), labels)`."""
    network.eval()
    ids = network.encode(texts)
    scores = np.empty((len(texts), len(network.labels)), dtype=np.float32)
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    with torch.inference_mode(), mixed_precision():
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            scores[rows] = network.logits(network.pad_batch([ids[row] for row in rows])).numpy()
    return scores


def mixed_precision() -> Any:
    """Return a context that multiplies matrices in bfloat16 where that is faster."""
    return torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype("cpu") == "bfloat16")


def _evaluate(
    network: Network, held_out: Sequence[LabelledExample], progress: EvaluatedProgress
) -> bool:
    """Evaluate on the held-out texts, and return whether the result is the best so far."""
    scores = predict_logits(network, [row.text for row in held_out])
    truth = [network.labels.index(row.label or "") for row in held_out]
    right = float((scores.argmax(1) == truth).mean())
    loss = float(torch.nn.functional.cross_entropy(torch.tensor(scores), torch.tensor(truth)))
    return progress.add_eval(EvalResult(progress.step, loss, right))


def _restore_parameters(parameters: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


def _soft_targets(
    rows: Sequence[LabelledExample],
    labels: Sequence[str],
    recipe: Recipe,
    teacher_probabilities: Mapping[str, NDArray[np.float64]],
) -> Tensor:
    """Return target probabilities, `(rows, labels)`; uniform for rows without a label."""
    even = 1 / len(labels)
    targets = torch.full((len(rows), len(labels)), even)
    for number, row in enumerate(rows):
        if row.label is not None:
            target = recipe.smoothing * even * torch.ones(len(labels))
            target[labels.index(row.label)] += 1 - recipe.smoothing
            if row.text in teacher_probabilities:
                target += recipe.teacher_weight * (
                    torch.from_numpy(teacher_probabilities[row.text]) - target
                )
            targets[number] = target
    return targets


def _length_grouped_batches(
    lengths: Sequence[int], batch_size: int, rng: random.Random
) -> Iterator[list[int]]:
    """Yield batches of row numbers in random order, each of similar lengths."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    for begin in range(0, len(order), batch_size * SORT_POOL_BATCHES):
        pool = sorted(
            order[begin : begin + batch_size * SORT_POOL_BATCHES], key=lambda row: lengths[row]
        )
        batches = [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
        rng.shuffle(batches)
        yield from batches
