"""Compare the answers of a model with an adapter and without, as the service `judge` sees them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from chatlm import Delta, Judge, Sampling, Setup, SideChats
from chatlm_lora.effect import MAX_ANSWER_TOKENS, PROBE_PROMPTS

ANSWER_SAMPLING = Sampling(temperature=0.0, max_tokens=MAX_ANSWER_TOKENS)


@dataclass(frozen=True)
class Comparison:
    """How often a judge preferred the answer with the adapter, the one without, or neither."""

    judge: str
    """The model that judged."""
    adapter: int = 0
    base: int = 0
    tie: int = 0
    undecided: int = 0
    """Prompts without a verdict."""

    def describe(self) -> str:
        """Return the result as one line."""
        without = f", {self.undecided} without a verdict" if self.undecided else ""
        return (
            f"{self.judge} prefers the adapter's answer {self.adapter} times, the base model's "
            f"{self.base} times; {self.tie} ties{without}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "judge": self.judge,
            "adapter": self.adapter,
            "base": self.base,
            "tie": self.tie,
            "undecided": self.undecided,
        }


def compare_with_base(
    chats: SideChats,
    adapter: str,
    model: str,
    judge_model: str,
    progress: Callable[[int, int, str], None],
) -> Comparison:
    """Let a model judge the answers to the probe prompts.

    Args:
        chats: where the models answer and judge.
        adapter: name of the adapter.
        model: name of the base model.
        judge_model: name of the model that judges.
        progress: called with the number of compared prompts, that of all, and the current one.

    Raises:
        UsageError: no plugin offers a judge.
        ChatlmError: a model cannot be loaded, or failed.
    """
    judge = chats.service("judge", Judge)
    setups = [Setup(model=model, adapter=name, sampling=ANSWER_SAMPLING) for name in ("", adapter)]
    # all answers first, since two models may not fit into memory together
    answers = [[_answer(chats, setup, prompt) for setup in setups] for prompt in PROBE_PROMPTS]
    counts = {"first": 0, "second": 0, "tie": 0, None: 0}
    for done, (prompt, (base, adapted)) in enumerate(zip(PROBE_PROMPTS, answers, strict=True)):
        progress(done, len(PROBE_PROMPTS), prompt)
        verdict = judge.compare(chats.begin(Setup(model=judge_model)), prompt, base, adapted)
        counts[verdict] += 1
    return Comparison(judge_model, counts["second"], counts["first"], counts["tie"], counts[None])


def _answer(chats: SideChats, setup: Setup, prompt: str) -> str:
    chat = chats.begin(setup)
    with closing(chat.stream(chat.request(prompt))) as events:
        return "".join(event.answer for event in events if isinstance(event, Delta))
