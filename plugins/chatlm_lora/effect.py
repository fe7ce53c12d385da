"""Measure an adapter's effect: KL divergence from the base model, and greedy answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from chatlm import Artifact, ChatEncoder, Message, ModelLocation, load_pretrained
from chatlm_lora import validation
from chatlm_lora.peft_utils import quiet_transformers

PROBE_PROMPTS = (
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain in one sentence why the sky is blue.",
    "My dog is ill and I feel sad. What should I do?",
    "Rewrite this sentence in the passive voice: The cat chased the mouse.",
    "Give me three names for a café.",
)


MIN_KL = 1e-4
"""In nats; smaller differences come from rounding, also in bfloat16."""


@dataclass(frozen=True)
class AdapterEffect:
    """How much an adapter changes a model's output."""

    mean_kl: float
    """KL divergence of the next-token distribution with the adapter from the one without, in nats,
    averaged over all positions of the probe prompts."""
    max_logit_difference: float
    """Largest absolute difference of a logit."""
    changed_positions: int
    """Positions at which the most likely token differs."""
    positions: int
    warnings: tuple[str, ...] = ()
    """As `ValidatedAdapter.warnings`."""

    @property
    def has_effect(self) -> bool:
        """Whether the effect is larger than rounding."""
        return self.mean_kl >= MIN_KL

    def describe(self) -> str:
        """Return the result as one line."""
        if not self.has_effect:
            return f"no effect (mean KL {self.mean_kl:.2g})"
        share = self.changed_positions / self.positions
        return f"acts (mean KL {self.mean_kl:.3g}, other top token at {share:.0%} of positions)"

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "mean_kl": self.mean_kl,
            "largest": self.max_logit_difference,
            "changed": self.changed_positions,
            "places": self.positions,
            "warnings": list(self.warnings),
        }


def measure_effect(adapter: Artifact, base: ModelLocation) -> AdapterEffect:
    """Validate an adapter, then compare the model's logits with and without it.

    Raises:
        AdapterRefused: it cannot be used with that model.
        ModelError, OutOfMemoryError: the model cannot be loaded.
    """
    checked = validation.validate_adapter(adapter.path, base)
    encoder = ChatEncoder(base)
    with quiet_transformers(), torch.no_grad():
        plain = load_pretrained(base, dtype="float32")
        model = PeftModel.from_pretrained(plain, str(adapter.path), local_files_only=True).eval()
        kl, largest, changed, places = 0.0, 0.0, 0, 0
        for probe in PROBE_PROMPTS:
            ids = torch.tensor(
                [encoder.encode_prompt([Message("user", probe)])], device=plain.device
            )
            with model.disable_adapter():
                before = model(ids).logits[0].float()
            after = model(ids).logits[0].float()
            was, now = before.log_softmax(-1), after.log_softmax(-1)
            kl += float((now.exp() * (now - was)).sum())
            largest = max(largest, float((after - before).abs().max()))
            changed += int((after.argmax(-1) != before.argmax(-1)).sum())
            places += ids.shape[1]
    return AdapterEffect(kl / places, largest, changed, places, checked.warnings)


MAX_ANSWER_TOKENS = 96
"""Longer answers are cut off."""


def greedy_answer(model: Any, encoder: ChatEncoder, messages: Sequence[Message]) -> str:
    """Generate a greedy answer of at most `MAX_ANSWER_TOKENS`.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        encoder: the model's encoder.
        messages: the chat to answer.
    """
    ids = torch.tensor([encoder.encode_prompt(messages)], device=model.device)
    with torch.no_grad():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_ANSWER_TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            pad_token_id=encoder.eos_token_id,
        )
    reply: list[int] = out[0, ids.shape[1] :].tolist()
    if encoder.eos_token_id in reply:
        reply = reply[: reply.index(encoder.eos_token_id)]
    return encoder.decode(reply).strip()
