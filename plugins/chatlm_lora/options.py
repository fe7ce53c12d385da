"""Options of the commands: an adapter's name, the base model, hyperparameters."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

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


F = TypeVar("F", bound=Callable[..., Any])

_RECIPE_OPTIONS: tuple[tuple[str, type, str, object], ...] = (
    ("rank", int, "Rank of the LoRA matrices.", 8),
    ("alpha", float, "LoRA alpha; the update is scaled by alpha / rank.", 16),
    ("dropout", float, "LoRA dropout.", 0.05),
    ("target", str, "Module to adapt, such as q_proj; repeatable.", "all-linear"),
    ("learning-rate", float, "Peak learning rate.", 0.0003),
    ("epochs", float, "Passes over the data.", 3),
    ("batch-size", int, "Batch size per device.", 8),
    ("gradient-accumulation", int, "Gradient accumulation: batches per step.", 1),
    ("warmup-ratio", float, "Warm-up, as a share of the steps.", 0.05),
    ("held-out", float, "Share of the data held out for evaluation.", 0.1),
    ("evals-per-epoch", int, "Evaluations per epoch.", 4),
    ("patience", int, "Evaluations without a lower loss before stopping early.", 3),
    ("max-length", int, "Maximum tokens per example; longer ones are left out.", 1024),
    ("seed", int, "Seed for the split and the order.", 0),
)
"""Name, type, help and default of the hyperparameters of `chatlm_lora.recipe.Recipe`."""


def recipe_options(**defaults: object) -> Callable[[F], F]:
    """Return a decorator that adds the hyperparameters to a command, None where not given.

    Args:
        defaults: those that the help names instead of the recipe's, by option with underscores.
    """

    def decorate(command: F) -> F:
        for name, kind, text, usual in reversed(_RECIPE_OPTIONS):
            default = defaults.get(name.replace("-", "_"), usual)
            more: dict[str, Any] = {"type": kind}
            words = [f"--{name}"]
            if name == "target":
                more = {"multiple": True, "metavar": "MODULE"}
                words.append("targets")
            command = click.option(*words, help=f"{text} Default: {default}", **more)(command)
        return command

    return decorate


def command_line(context: click.Context, command: str, name: str, data: str) -> str:
    """Return the command for the card, without options that do not change the result.

    Args:
        context: of the command that runs.
        command: its words, such as `adapters train`.
        name: name of the adapter.
        data: what stands for the data, such as the file's name without its folder.
    """
    words = ["chatlm", *command.split(), name, "--data", data]
    passed_over = {"name", "data", "restart", "finish", "dry_run", "as_json"}
    for option in context.command.params:
        key = option.name or ""
        given = context.get_parameter_source(key) is ParameterSource.COMMANDLINE
        if given and key not in passed_over:
            value = context.params[key]
            if isinstance(value, bool):
                words.append(max(option.opts, key=len))
                continue
            for each in value if option.multiple else [value]:
                words += [max(option.opts, key=len), str(each)]
    return shlex.join(words)
