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
    "-m", "--model", metavar="MODEL", help="The base model; the one of the config if left out."
)


def resolve_base_model(name: str | None) -> ModelLocation:
    """The base that is meant, fetched first if it is not here.

    Raises:
        ConfigError: the config cannot be read.
        ModelError: there is no such model.
        UsageError: it is no chat model.
    """
    from chatlm import UsageError, ensure_model, load_config

    base = ensure_model(name or load_config().model)
    if base.kind != "chat":
        raise UsageError(f"{base.name} is no chat model.", hint="Name one: --model NAME")
    return base
