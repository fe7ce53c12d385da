"""`chatlm lab train`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from chatlm import dump_json
from chatlm.plugin_kit.options import json_option
from chatlm_lab.architectures import ARCHITECTURES, TrainingJob
from chatlm_lab.options import DATA_HELP, perplexity_line


@click.command()
@click.argument("name")
@click.option(
    "--arch",
    type=click.Choice(list(ARCHITECTURES)),
    default="ngram",
    show_default=True,
    help="Architecture.",
)
@click.option(
    "--data", multiple=True, type=click.Path(path_type=Path), metavar="PATH", help=DATA_HELP
)
@click.option(
    "--tokenizer",
    type=click.Choice(["bytes", "characters", "words", "bpe"]),
    help="What tokens are. Default: bpe",
)
@click.option("--vocabulary", type=int, help="Largest vocabulary, in tokens. Default: 4096")
@click.option(
    "--held-out",
    type=float,
    help="Share of each file, at its end, to validate on; 0 for none. Default: 0.1",
)
@click.option("--order", type=int, help="ngram: longest n-grams, in tokens. Default: 5")
@click.option(
    "--smoothing",
    type=click.Choice(["kneser-ney", "backoff", "laplace"]),
    help="ngram: how n-grams that were not seen get a probability. Default: kneser-ney",
)
@click.option(
    "--size",
    type=click.Choice(["tiny", "small", "medium"]),
    help="Networks: width, layers, heads and context together. Default: tiny",
)
@click.option("--params", type=int, help="Networks: choose the width for this many parameters.")
@click.option("--width", type=int, help="Networks: width of the layers.")
@click.option("--layers", type=int, help="Networks: number of layers.")
@click.option("--context", type=int, help="Networks: tokens per training sequence.")
@click.option("--heads", type=int, help="decoder, llama: heads of the attention.")
@click.option("--kv-heads", type=int, help="llama: heads of keys and values. Default: half")
@click.option("--window", type=int, help="decoder: tokens that each one sees. Default: the context")
@click.option("--dropout", type=float, help="Networks: dropout. Default: 0")
@click.option("--epochs", type=float, help="Networks: passes over the data. Default: 10")
@click.option("--batch-size", type=int, help="Networks: sequences per step. Default: 32")
@click.option("--learning-rate", type=float, help="Networks: highest learning rate. Default: 0.003")
@click.option("--weight-decay", type=float, help="Networks: weight decay of matrices. Default: 0.1")
@click.option("--warmup", type=float, help="Networks: share of the steps to warm up. Default: 0.05")
@click.option("--clip", type=float, help="Networks: largest norm of the gradients. Default: 1")
@click.option(
    "--patience",
    type=int,
    help="Networks: evaluations without a lower loss before stopping. Default: 5",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Networks: how matrices are multiplied. Default: float32",
)
@click.option("--seed", type=int, help="Networks: seed of weights, order and dropout. Default: 0")
@click.option("--licence", default="", metavar="TEXT", help="Licence of the data, for the card.")
@click.option("--restart", is_flag=True, help="Discard a training that was stopped.")
@click.option("--finish", is_flag=True, help="Save the best weights of one that was stopped.")
@json_option
def train(
    name: str,
    arch: str,
    data: tuple[Path, ...],
    licence: str,
    restart: bool,
    finish: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a language model on texts.

    Ctrl-C stops. Networks then keep a checkpoint: the same command continues, --finish saves the
    best weights so far. To chat with the model: chatlm -m lab:NAME

    Example: chatlm lab train poems --data poems.txt --arch decoder --epochs 20
    """
    from chatlm import expand_path
    from chatlm_lab.architectures import find_architecture
    from chatlm_lab.models import LAB_MODELS, RUNS

    LAB_MODELS.new(name)
    if finish:
        if restart:
            raise click.UsageError("--finish and --restart exclude each other.")
        options = RUNS.options(name)
    elif not data:
        raise click.UsageError("Missing option '--data'.")
    else:
        given = {key: value for key, value in settings.items() if value is not None}
        options = {
            "arch": arch,
            "data": [str(expand_path(str(path)).absolute()) for path in data],
            "settings": given,
            "command": _command_line(name, arch, data, given),
            "licence": licence,
        }
    architecture = find_architecture(options["arch"])
    recipe = architecture.make_recipe(options["settings"])
    job = TrainingJob(
        name,
        tuple(map(Path, options["data"])),
        options["command"],
        options["licence"],
        options,
        restart,
        finish,
    )
    card = architecture.train(job, recipe)
    if as_json:
        click.echo(dump_json(card.to_dict()))
        return
    click.echo(f"{card.name}: {card.description}; {architecture.summary(card)}.")
    if card.held_out:
        click.echo(perplexity_line(card.held_out))
    click.echo(f"Chat with it: chatlm -m lab:{card.name}")


def _command_line(name: str, arch: str, paths: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """Return the command for the card, with files without their folders."""
    words = ["chatlm", "lab", "train", name, "--arch", arch]
    for path in paths:
        words += ["--data", path.name]
    for option, value in settings.items():
        words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join(words)
