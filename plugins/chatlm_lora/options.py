"""Options of `chatlm adapters`: an adapter's name, completed by the shell, and the base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from chatlm.plugin_kit.options import complete_names

if TYPE_CHECKING:
    from chatlm import ModelLocation


def _adapter_names() -> list[str]:
    from chatlm_lora.library import ADAPTERS

    return [adapter.name for adapter in ADAPTERS.all()]


complete_adapter = complete_names(_adapter_names)
name_argument = click.argument("name", shell_complete=complete_adapter)
model_option = click.option(
    "-m", "--model", metavar="MODEL", help="Base model. Default: the configured model."
)


def resolve_base_model(name: str | None) -> ModelLocation:
    """Return the base model, pulled first if it is not local.

    Args:
        name: as the user gave it; None for the configured model.

    Raises:
        ConfigError: the config cannot be read.
        ModelError: the model was not found.
        UsageError: it is not a chat model.
    """
    from chatlm import UsageError, ensure_model, load_config

    base = ensure_model(name or load_config().model)
    if base.kind != "chat":
        raise UsageError(f"{base.name} is not a chat model.", hint="Specify one: --model NAME")
    return base
