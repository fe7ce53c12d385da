"""What several commands take: an adapter's name, completed by the shell, a base model, `--json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from chatlm import ModelLocation


def complete_adapter(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of adapters that begin so."""
    from click.shell_completion import CompletionItem

    from chatlm_lora.library import ADAPTERS

    return [
        CompletionItem(each.name) for each in ADAPTERS.all() if each.name.startswith(incomplete)
    ]


name_argument = click.argument("name", shell_complete=complete_adapter)
model_option = click.option(
    "-m", "--model", metavar="MODEL", help="The base model; the one of the config if left out."
)
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


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
