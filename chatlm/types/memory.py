"""What a model needs in memory, and what the machine has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MemoryBudget:
    """The memory of one loaded model, in bytes; an estimate before it is loaded."""

    device: str
    """Whose memory it is: cpu, cuda:0, …"""
    weights: int
    kv_cache: int
    """Of one chat that fills the context."""
    context_length: int
    """Tokens of that context."""
    prompt_cache: int
    """Limit of the KV caches of earlier prompts, beside the chat's."""
    program: int
    """chatlm, its libraries and what they compute with."""
    available: int | None
    """What the device has for all of it; None if unknown."""
    per_prompt: int = 0
    """The part of each KV cache that does not grow with the text."""
    draft_model: int = 0
    """Weights and KV cache of a model that drafts tokens; 0 without one."""

    @property
    def total(self) -> int:
        """What is needed in all when the context is full."""
        own = self.weights + self.kv_cache + self.prompt_cache + self.program
        return own + self.draft_model

    @property
    def fits(self) -> bool:
        """Whether there is enough memory, as far as is known."""
        return self.available is None or self.total <= self.available

    @property
    def cached_tokens(self) -> int:
        """How many tokens the chat's KV cache and the prompt cache may hold together."""
        own = self.context_length
        return own + own * self.prompt_cache // max(1, self.kv_cache)

    @property
    def tokens_per_prompt(self) -> int:
        """How many tokens take as much as each KV cache does without any."""
        return self.context_length * self.per_prompt // max(1, self.kv_cache)

    def rows(self) -> list[tuple[str, int]]:
        """Return the parts, the total and what is available, with what each is called."""
        rows = [
            ("weights", self.weights),
            (f"KV cache at {self.context_length:,} tokens", self.kv_cache),
            ("prompt cache", self.prompt_cache),
            *([("draft model", self.draft_model)] if self.draft_model else []),
            ("program", self.program),
            ("total", self.total),
        ]
        return rows if self.available is None else [*rows, ("available", self.available)]

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "device": self.device,
            "weights": self.weights,
            "kv_cache": self.kv_cache,
            "context_length": self.context_length,
            "prompt_cache": self.prompt_cache,
            "draft_model": self.draft_model,
            "program": self.program,
            "total": self.total,
            "available": self.available,
        }
