"""The training loop of the neural models: batches, schedule, evaluation, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from chatlm import ChatlmError, TrainingCheckpoint
from chatlm.plugin_kit.training import EvalResult, EvaluatedProgress, ProgressListener
from chatlm_lab.network import LanguageNetwork
from chatlm_lab.network_model import NetworkPredictor
from chatlm_lab.network_recipe import NetworkRecipe
from chatlm_lab.tokenizer_kinds import Ids

EVALUATIONS = 20
"""Evaluations of a whole training; a checkpoint is saved after each."""

EVAL_TOKENS = 20_000
"""Held-out tokens of an evaluation during training; all are used at the end."""

LOWEST_RATE = 0.1
"""Share of the learning rate at the end of the cosine."""

BETAS = (0.9, 0.95)
"""Of AdamW, as GPT-3 was trained."""

Sampler = Callable[[LanguageNetwork], str]


def fit_network(
    network: LanguageNetwork,
    ids: Ids,
    held_out: Ids,
    recipe: NetworkRecipe,
    listener: ProgressListener,
    should_stop: Callable[[], bool],
    checkpoint: TrainingCheckpoint,
    sample: Sampler = lambda network: "",
) -> EvaluatedProgress:
    """Train a network, or continue from a checkpoint, and restore its best weights.

    A run that continues ends like one that was not stopped.

    Args:
        network: with the weights to start from.
        ids: tokens to train on.
        held_out: tokens that decide which weights are best; if there are none, the last are.
        recipe: the hyperparameters.
        listener: receives the progress.
        should_stop: called after each step; when it is true, a checkpoint is saved.
        checkpoint: loaded if there is one, and saved after each evaluation.
        sample: returns a text of the network, shown after each evaluation.

    Returns:
        The progress with all evaluations; its `stopped` tells whether training can continue later.

    Raises:
        ChatlmError: the loss is not finite, or the disk is full.
    """
    torch.manual_seed(recipe.seed)
    total_steps = count_steps(len(ids), recipe)
    every = max(total_steps // EVALUATIONS, 1)
    learnt = dict(network.named_parameters())
    optimizer = torch.optim.AdamW(_parameter_groups(learnt, recipe), betas=BETAS)
    progress = EvaluatedProgress()
    best = checkpoint.load(learnt, optimizer, progress.restore) or {}
    progress.start(progress.step, total_steps)
    stream = torch.from_numpy(ids.astype(np.int64))
    for rows in islice(_batches(len(ids), recipe), progress.step, total_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress.step, total_steps, recipe)
        loss = _train_step(network, optimizer, stream, rows, recipe)
        progress.add_step(loss, rows.size)
        last = progress.step == total_steps
        evaluates = last or progress.step % every == 0
        if evaluates and len(held_out) > 1:
            if progress.add_eval(_evaluate(network, held_out, recipe, progress.step)):
                best = {name: value.detach().clone() for name, value in learnt.items()}
            progress.sample = sample(network)
        listener.update(progress)
        if progress.evals_since_best >= recipe.patience and not last:
            progress.end_reason = "early: held-out loss stopped improving"
            break
        progress.stopped = not last and should_stop()
        if evaluates or progress.stopped:
            checkpoint.save(learnt, best, optimizer, progress.to_dict())
        if progress.stopped:
            return progress
    _restore(learnt, best)
    return progress


def load_best(
    network: LanguageNetwork, held_out: Ids, recipe: NetworkRecipe, checkpoint: TrainingCheckpoint
) -> EvaluatedProgress | None:
    """Load the best weights of a run that was stopped into the network.

    The newest weights may be better than those of the best evaluation, since Ctrl-C saves them
    without an evaluation.

    Returns:
        The progress with all evaluations; None if there is no checkpoint.
    """
    progress = EvaluatedProgress(end_reason="stopped by the user")
    learnt = dict(network.named_parameters())
    best = checkpoint.load(learnt, None, progress.restore)
    if best is None:
        return None
    evaluated = bool(progress.eval_results) and progress.eval_results[-1].step == progress.step
    if len(held_out) > 1 and (
        evaluated or not progress.add_eval(_evaluate(network, held_out, recipe, progress.step))
    ):
        _restore(learnt, best)
    return progress


def count_steps(tokens: int, recipe: NetworkRecipe) -> int:
    """Return the steps of a training on so many tokens."""
    rows = _rows_per_epoch(tokens, recipe)
    return max(math.ceil(recipe.epochs * rows / recipe.batch_size), 1)


def learning_rate(step: int, total_steps: int, recipe: NetworkRecipe) -> float:
    """Return the learning rate of a step: it rises linearly, then falls along a cosine.

    Args:
        step: steps before it.
        total_steps: of the training.
        recipe: has the highest rate, and the share of the warm-up.
    """
    warmup = round(recipe.warmup * total_steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(total_steps - warmup, 1)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return recipe.learning_rate * (LOWEST_RATE + (1 - LOWEST_RATE) * cosine)


def _rows_per_epoch(tokens: int, recipe: NetworkRecipe) -> int:
    """Return how many sequences of the context, with a target after each, fit wherever one starts.

    Each epoch starts at a random place within the first sequence.
    """
    return (tokens - recipe.context) // recipe.context


def _batches(tokens: int, recipe: NetworkRecipe) -> Iterator[NDArray[np.int64]]:
    """Yield the places of the tokens of each step, (batch, context), which the seed determines."""
    rows = _rows_per_epoch(tokens, recipe)
    waiting: NDArray[np.int64] = np.empty(0, np.int64)
    for epoch in range(10**9):
        chance = np.random.default_rng((recipe.seed, epoch))
        starts = chance.integers(recipe.context) + np.arange(rows) * recipe.context
        waiting = np.concatenate([waiting, chance.permutation(starts)])
        while len(waiting) >= recipe.batch_size:
            taken, waiting = waiting[: recipe.batch_size], waiting[recipe.batch_size :]
            yield taken[:, None] + np.arange(recipe.context)


def _train_step(
    network: LanguageNetwork,
    optimizer: torch.optim.Optimizer,
    stream: Tensor,
    rows: NDArray[np.int64],
    recipe: NetworkRecipe,
) -> float:
    """Make one step, and return the loss before it."""
    network.train()
    places = torch.from_numpy(rows)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        logits, _ = network(stream[places])
    loss = cross_entropy(logits.float().flatten(0, 1), stream[places + 1].flatten())
    value = loss.item()
    if not math.isfinite(value):
        raise ChatlmError(
            "The loss is not a number any more: the training has diverged.",
            hint="Start over with a lower --learning-rate, and --restart.",
        )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
    optimizer.step()
    return value


def _evaluate(
    network: LanguageNetwork, held_out: Ids, recipe: NetworkRecipe, step: int
) -> EvalResult:
    found = NetworkPredictor(network, recipe.context).log_probabilities(held_out[:EVAL_TOKENS])
    return EvalResult(step, float(-found[1:].mean()))


def _parameter_groups(learnt: Mapping[str, Tensor], recipe: NetworkRecipe) -> list[dict[str, Any]]:
    """Let only matrices decay: not biases, and not the scales of norms."""
    matrices = [value for value in learnt.values() if value.dim() > 1]
    vectors = [value for value in learnt.values() if value.dim() <= 1]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _restore(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
