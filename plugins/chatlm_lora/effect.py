"""KL with and without the adapter; greedy answers."""

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
"""Nats; below it a difference is that of rounding, in bfloat16 too."""


@dataclass(frozen=True)
class AdapterEffect:
    """How far an adapter moves a model."""

    mean_kl: float
    """KL divergence of the next token's distribution with the adapter from that without it, in
    nats, mean over all places of the probes' prompts."""
    max_logit_difference: float
    """The largest difference of a logit."""
    changed_positions: int
    """Places of the prompts at which another token is the likeliest."""
    positions: int
    warnings: tuple[str, ...] = ()
    """See `Checked.warnings`."""

    @property
    def has_effect(self) -> bool:
        """Whether it does anything."""
        return self.mean_kl >= MIN_KL

    def describe(self) -> str:
        """The verdict in one line."""
        if not self.has_effect:
            return f"no effect (mean KL {self.mean_kl:.2g})"
        share = self.changed_positions / self.positions
        return (
            f"acts (mean KL {self.mean_kl:.3g}, another likeliest token at {share:.0%} of places)"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "mean_kl": self.mean_kl,
            "largest": self.max_logit_difference,
            "changed": self.changed_positions,
            "places": self.positions,
            "warnings": list(self.warnings),
        }


def measure_effect(adapter: Artifact, base: ModelLocation) -> AdapterEffect:
    """Check an adapter's files, then load it and compare.

    Raises:
        AdapterRefused: it cannot be used on that model.
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
"""Tokens."""


def greedy_answer(model: Any, encoder: ChatEncoder, messages: Sequence[Message]) -> str:
    """What the model says, always its likeliest token; cut after `LONGEST_ANSWER`.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        encoder: of that model.
        messages: that it answers.
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
    said: list[int] = out[0, ids.shape[1] :].tolist()
    if encoder.eos_token_id in said:
        said = said[: said.index(encoder.eos_token_id)]
    return encoder.decode(said).strip()
