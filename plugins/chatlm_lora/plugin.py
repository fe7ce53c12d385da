"""The hooks by which chatlm knows the adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatlm import hookimpl

if TYPE_CHECKING:
    from chatlm import Commands


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm adapters`."""
    cli.add_lazy(
        "adapters",
        "chatlm_lora.commands:adapters",
        "Add, check, train, merge and export LoRA adapters.",
    )
