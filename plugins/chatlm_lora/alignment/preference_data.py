"""Pairs as what an adapter is trained on: encoded, with the loss of a method and its evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatlm import ChatEncoder
from chatlm_lora.alignment.encoding import EncodedPairs, PairCollator, add_base_logprobs
from chatlm_lora.alignment.evaluation import evaluate_preferences
from chatlm_lora.alignment.objectives import Objective
from chatlm_lora.alignment.pairs import PairDataset
from chatlm_lora.alignment.preference_trainer import PreferenceTrainer
from chatlm_lora.dataset import SAMPLE_ANSWERS, Evaluation

if TYPE_CHECKING:
    from transformers import Trainer


class EncodedPreferences:
    """Encoded pairs, the loss of a method on them and its evaluation.

    Args:
        data: the pairs.
        objective: the method.
        encoder: the model's encoder.
        max_length: tokens of a chat; pairs with a longer one are left out.
        batch_size: pairs per batch.

    Raises:
        UsageError: the method needs pairs of several prompts.
    """

    def __init__(
        self,
        data: PairDataset,
        objective: Objective,
        encoder: ChatEncoder,
        max_length: int,
        batch_size: int,
    ) -> None:
        self._objective, self._encoder, self._batch_size = objective, encoder, batch_size
        needed = objective.needs_mismatched
        self.train = EncodedPairs(data.train, encoder, max_length, mismatched=needed)
        self.held_out = EncodedPairs(data.held_out, encoder, max_length, mismatched=needed)
        self.held_out.sort_by_length()
        by_prompt = {pair.prompt: (*pair.prompt, *pair.chosen[:1]) for pair in data.held_out}
        self.sample_examples = tuple(by_prompt.values())[:SAMPLE_ANSWERS]
        self._collator = PairCollator(encoder.eos_token_id)

    @property
    def train_count(self) -> int:
        """Number of pairs to train on."""
        return len(self.train)

    @property
    def held_out_count(self) -> int:
        """Number of pairs held out."""
        return len(self.held_out)

    @property
    def too_long(self) -> int:
        """Number of pairs left out because of their length."""
        return self.train.too_long + self.held_out.too_long

    @property
    def total_tokens(self) -> int:
        """Tokens of both chats of the pairs to train on."""
        return self.train.total_tokens

    def prepare(self, model: Any, report: Callable[[str], None]) -> None:
        """Compute the base's log-likelihoods of the replies to train on."""

        def report_count(done: int, total: int) -> None:
            report(f"reading the pairs with the base, {done} of {total}")

        add_base_logprobs(model, self.train, self._collator, self._batch_size, report_count)

    def build_trainer(self, **arguments: Any) -> Trainer:
        """Return a Trainer of the method's loss."""
        chosen_only = self._objective.method == "sft"
        return PreferenceTrainer(
            objective=self._objective,
            measure=lambda model: self.evaluate(model, self._batch_size),
            train_dataset=self.train,
            eval_dataset=self.held_out,
            data_collator=PairCollator(self._encoder.eos_token_id, chosen_only=chosen_only),
            **arguments,
        )

    def evaluate(self, model: Any, batch_size: int) -> Evaluation:
        """Return loss, reward accuracy, margin, KL and answer length on the held-out pairs."""
        add_base_logprobs(
            model, self.held_out, self._collator, batch_size, lambda done, total: None
        )
        prompts = [self._encoder.encode_prompt(chat[:-1]) for chat in self.sample_examples]
        return evaluate_preferences(
            model,
            self.held_out,
            self._objective,
            self._collator,
            batch_size,
            prompts,
            self._encoder.eos_token_id,
        )


@dataclass(frozen=True)
class PreferenceData:
    """Pairs of which an adapter learns to prefer the chosen replies."""

    pairs: PairDataset
    objective: Objective

    def plan(self) -> dict[str, Any]:
        """Return everything that determines the result, as JSON values."""
        first = self.pairs.train[0]
        return {
            "data": self.pairs.sha256,
            "examples": [len(self.pairs.train), len(self.pairs.held_out)],
            "first": [message.text for message in (*first.prompt, *first.chosen)],
            "objective": self.objective.to_dict(),
        }

    def source(self) -> dict[str, Any]:
        """Return the pairs' origin and what was left out, for the card."""
        return {
            "data": self.pairs.name,
            "sha256": self.pairs.sha256,
            "repeated": self.pairs.repeated,
            "contradictory": self.pairs.contradictory,
            "with_images": self.pairs.with_images,
        }

    def settings(self) -> dict[str, Any]:
        """Return the method and its β, for the card."""
        return self.objective.to_dict()

    def encode(self, encoder: ChatEncoder, max_length: int, batch_size: int) -> EncodedPreferences:
        """Encode the pairs; those with a chat of more than `max_length` tokens are left out."""
        return EncodedPreferences(self.pairs, self.objective, encoder, max_length, batch_size)
