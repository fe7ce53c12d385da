"""The hooks by which chatlm knows the indices of the person's documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm import hookimpl

if TYPE_CHECKING:
    from chatlm import Commands


@dataclass(frozen=True)
class Settings:
    """What the person can set under `[plugins.rag]`."""

    reranker: Path | None = field(
        default=None,
        metadata={"help": "Folder of a cross-encoder that puts found passages in a better order."},
    )


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm rag`."""
    cli.add_lazy(
        "rag",
        "chatlm_rag.commands:rag",
        "Build, search and measure indices of your documents.",
    )
