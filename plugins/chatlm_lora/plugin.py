"""The hooks by which chatlm knows the adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chatlm import hookimpl

if TYPE_CHECKING:
    from chatlm import ChatlmError, Commands


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm adapters`."""
    cli.add_lazy(
        "adapters",
        "chatlm_lora.commands:adapters",
        "Add, check, train, merge and export LoRA adapters.",
    )


@hookimpl
def find_adapter(name: str, model: str) -> Path | ChatlmError:
    """The folder of an adapter that fits the model, or why there is none."""
    from chatlm_lora.finding import found

    return found(name, model)
