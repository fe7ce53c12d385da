"""The hooks by which chatlm knows the two servers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatlm import hookimpl

if TYPE_CHECKING:
    from chatlm import Commands


@dataclass(frozen=True)
class Settings:
    """What the person can set under `[plugins.serve]`."""

    queue: int = field(
        default=16,
        metadata={"help": "Requests that may wait; more are turned away."},
    )
    at_once: int = field(
        default=8,
        metadata={"help": "Requests that are answered at once; each takes memory for its context."},
    )
    pages: int = field(
        default=8,
        metadata={"help": "Pages that may be open at once; each is a chatlm with its own model."},
    )

    def __post_init__(self) -> None:
        if self.queue < 0:
            raise ValueError("queue must be 0 or more")
        for name in ("at_once", "pages"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm serve` and `chatlm web`."""
    cli.add_lazy(
        "serve",
        "chatlm_serve.commands:serve",
        "Answer other programs by an OpenAI-compatible endpoint.",
    )
    cli.add_lazy("web", "chatlm_serve.commands:web", "Open the chat in a browser.")
