"""Serve models to other programs, and the chat to a browser."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatlm import hookimpl

if TYPE_CHECKING:
    from chatlm import Commands


@dataclass(frozen=True)
class Settings:
    """Settings of `chatlm serve` and `chatlm web`, `[plugins.serve]` in the config file."""

    queue: int = field(
        default=16,
        metadata={"help": "Maximum number of waiting requests; more are rejected."},
    )
    at_once: int = field(
        default=8,
        metadata={"help": "Requests answered concurrently; each needs memory for its context."},
    )
    keep_alive: float = field(
        default=300.0,
        metadata={
            "help": "Seconds for which a model that a request named stays in memory when nobody "
            "uses it; -1 for ever, 0 not at all."
        },
    )
    connections: int = field(
        default=256,
        metadata={"help": "Maximum number of open connections; more are refused."},
    )
    receive_seconds: float = field(
        default=30.0,
        metadata={"help": "Seconds for a client to send its request; then it is disconnected."},
    )
    pages: int = field(
        default=8,
        metadata={"help": "Maximum number of open pages; each runs its own chatlm and model."},
    )

    def __post_init__(self) -> None:
        if self.queue < 0:
            raise ValueError("queue must be 0 or more")
        for name in ("at_once", "connections", "pages"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        if not self.receive_seconds > 0:
            raise ValueError("receive_seconds must be more than 0")


def keep_seconds(keep_alive: float) -> float:
    """Return the seconds for which a model is kept, infinite for a negative setting."""
    return math.inf if keep_alive < 0 else keep_alive


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm serve` and `chatlm web`."""
    cli.add_lazy(
        "serve",
        "chatlm_serve.commands:serve",
        "Serve models over OpenAI's, Anthropic's and Ollama's APIs.",
    )
    cli.add_lazy("web", "chatlm_serve.commands:web", "Open the chat in a browser.")
