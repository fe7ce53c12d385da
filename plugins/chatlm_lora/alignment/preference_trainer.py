"""transformers' Trainer with the loss of a method, and its own evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer

from chatlm_lora.alignment.encoding import reply_logprobs
from chatlm_lora.alignment.evaluation import mismatched_replies, split_rows
from chatlm_lora.alignment.objectives import Objective, ReplyLogprobs, pair_losses
from chatlm_lora.dataset import MEASURE_PREFIX, Evaluation


class PreferenceTrainer(Trainer):
    """Trains on batches of `PairCollator`.

    Args:
        objective: the method.
        measure: evaluates the model on the held-out pairs.
        arguments: those of Trainer.
    """

    def __init__(
        self, *, objective: Objective, measure: Callable[[Any], Evaluation], **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._objective, self._measure = objective, measure
        # else Trainer would leave the division by the number of accumulated batches to the model
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the mean loss of the batch's pairs."""
        if self._objective.method == "sft":
            total, tokens = reply_logprobs(model, inputs)
            replies = ReplyLogprobs(total, inputs["base"], tokens)
            return pair_losses(self._objective, replies, replies).mean()
        mismatched = mismatched_replies(model, inputs)
        chosen, rejected = split_rows(model, inputs)
        return pair_losses(self._objective, chosen, rejected, mismatched).mean()

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate the model on the held-out pairs, and log the result; in each process alike."""
        found = self._measure(self.accelerator.unwrap_model(self.model))
        metrics = {"eval_loss": found.loss}
        metrics |= {f"{MEASURE_PREFIX}{name}": value for name, value in found.measures.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics
