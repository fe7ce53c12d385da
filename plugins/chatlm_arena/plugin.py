"""The hooks by which chatlm knows the arena."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatlm import hookimpl

if TYPE_CHECKING:
    from chatlm import Commands


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm arena`."""
    cli.add_lazy(
        "arena",
        "chatlm_arena.commands:arena",
        "Compare models, adapters and prompts blind, and rate them.",
    )
