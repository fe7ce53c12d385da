"""`chatlm lab`: train, list, show, remove and eval; the group of its other commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import dump_json, escape_controls, human_bytes
from chatlm.plugin_kit.options import complete_names, json_option
from chatlm_lab.options import data_option, model_names, name_argument
from chatlm_lab.tokenizer_command import tokenizer

if TYPE_CHECKING:
    from chatlm_lab.evaluation import Evaluation


@click.group()
def lab() -> None:
    """Build language models and see how they work.

    Example: chatlm lab train poems --arch ngram --data poems.txt
    """


lab.add_command(tokenizer)


@lab.command()
@click.argument("name")
@click.option(
    "--arch", type=click.Choice(["ngram"]), default="ngram", show_default=True, help="Architecture."
)
@data_option
@click.option("--order", type=int, default=5, show_default=True, help="Longest n-grams, in tokens.")
@click.option(
    "--smoothing",
    type=click.Choice(["kneser-ney", "backoff", "laplace"]),
    default="kneser-ney",
    show_default=True,
    help="How n-grams that were not seen get a probability.",
)
@click.option(
    "--tokenizer",
    type=click.Choice(["bytes", "characters", "words", "bpe"]),
    default="bpe",
    show_default=True,
    help="What tokens are.",
)
@click.option(
    "--vocabulary",
    type=int,
    default=4096,
    show_default=True,
    help="Maximum size of the vocabulary, in tokens.",
)
@click.option(
    "--held-out",
    type=float,
    default=0.1,
    show_default=True,
    help="Share of each file, at its end, to validate on; 0 for none.",
)
@click.option("--licence", default="", metavar="TEXT", help="Licence of the data, for the card.")
@json_option
def train(
    name: str,
    arch: str,
    data: tuple[Path, ...],
    licence: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a language model on texts.

    To chat with it: chatlm -m lab:NAME. Ctrl-C stops, and nothing is saved.

    Example: chatlm lab train poems --data poems.txt --tokenizer words --order 3
    """
    from chatlm import expand_path
    from chatlm.plugin_kit.progress import progress_bar
    from chatlm.plugin_kit.training import stop_on_interrupt
    from chatlm_lab.training import NOTHING_SAVED, NgramRecipe, train_ngram

    recipe = NgramRecipe(**settings)
    paths = [expand_path(str(path)) for path in data]
    with stop_on_interrupt(NOTHING_SAVED) as should_stop, progress_bar() as progress:
        card = train_ngram(
            name,
            paths,
            recipe,
            lambda done, total, activity: progress.update(done, total or None, activity),
            should_stop,
            command=_command_line(name, arch, paths, settings),
            licence=licence,
        )
    if as_json:
        click.echo(dump_json(card.to_dict()))
        return
    click.echo(
        f"{card.name}: {card.description}; {card.data['tokens']:,} tokens, "
        f"{sum(card.ngrams):,} n-grams, {human_bytes(card.cost['bytes'])}; "
        f"{card.cost['megabytes_per_second']:g} MB/s."
    )
    if card.held_out:
        click.echo(_perplexity_line(card.held_out))
    click.echo(f"Chat with it: chatlm -m lab:{card.name}")


def _command_line(name: str, arch: str, paths: Sequence[Path], settings: dict[str, Any]) -> str:
    """Return the command for the card, with files without their folders."""
    words = ["chatlm", "lab", "train", name, "--arch", arch]
    for path in paths:
        words += ["--data", path.name]
    for option, value in settings.items():
        words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _perplexity_line(scores: dict[str, Any] | Any) -> str:
    line = f"Perplexity on held-out text: {scores['perplexity']:,.2f} per token"
    if scores["bits_per_byte"] is not None:
        line += (
            f", {scores['character_perplexity']:,.3f} per character; "
            f"{scores['bits_per_byte']:.3f} bits per byte"
        )
    else:
        line += f"; {scores['unknown_tokens']:,} of {scores['tokens']:,} tokens are unknown"
    if abs(scores["mean_sum"] - 1) > 1e-6:
        line += (
            f". The probabilities are not normalised: they sum to {scores['mean_sum']:.2f} on "
            "average, so this cannot be compared with other models"
        )
    return f"{line}."


@lab.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the models that you trained.

    Example: chatlm lab list
    """
    from chatlm_lab.models import LAB_MODELS, read_card

    found = [(place, read_card(place)) for place in LAB_MODELS.all()]
    if as_json:
        rows = [
            {
                "name": place.name,
                "model": f"lab:{place.name}",
                "architecture": card.architecture,
                "order": card.order,
                "smoothing": card.smoothing,
                "tokenizer": card.tokenizer,
                "vocabulary": card.vocabulary,
                "perplexity": card.held_out.get("perplexity"),
                "bytes": place.size_bytes,
            }
            for place, card in found
        ]
        click.echo(dump_json(rows))
        return
    if not found:
        click.echo("There is no lab model yet. Train one: chatlm lab train NAME --data FILE")
        return
    width = max(len(place.name) for place, _ in found)
    for place, card in found:
        perplexity = card.held_out.get("perplexity")
        score = f"perplexity {perplexity:,.1f}" if perplexity else "not validated"
        click.echo(
            f"{place.name:<{width}}  {human_bytes(place.size_bytes):>8}  {score:<20}  "
            f"{card.description}"
        )


@lab.command()
@name_argument
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a model's card.

    Example: chatlm lab show poems
    """
    from chatlm_lab.models import LAB_MODELS, card_lines, read_card

    place = LAB_MODELS.get(name)
    card = read_card(place)
    if as_json:
        click.echo(dump_json(card.to_dict() | {"folder": str(place.path)}))
        return
    click.echo("\n".join([*card_lines(card), escape_controls(f"Folder  {place.path}")]))


@lab.command()
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Delete a model.

    Example: chatlm lab remove poems --yes
    """
    from chatlm_lab.models import LAB_MODELS

    place = LAB_MODELS.get(name)
    size = place.size_bytes
    if not yes:
        click.confirm(f"Delete the lab model {name}?", abort=True, err=True)
    place.remove()
    click.echo(f"Removed {name}; freed {human_bytes(size)}.")


@lab.command("eval")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names(model_names))
@data_option
@click.option(
    "--smoothing",
    type=click.Choice(["kneser-ney", "backoff", "laplace"]),
    help="Smoothing. Default: each model's own.",
)
@click.option("--order", type=int, help="Longest n-grams. Default: each model's own.")
@json_option
def evaluate(
    names: tuple[str, ...],
    data: tuple[Path, ...],
    smoothing: Any,
    order: int | None,
    as_json: bool,
) -> None:
    """Compare models by their perplexity on texts that they were not trained on.

    Per character and in bits per byte, models with different tokenizers can be compared.

    Example: chatlm lab eval poems prose --data new.txt
    """
    from chatlm import UsageError, expand_path
    from chatlm_lab.corpus import read_texts
    from chatlm_lab.evaluation import evaluate as evaluate_texts
    from chatlm_lab.opening import open_model
    from chatlm_lab.smoothing import make_smoothing

    texts = read_texts(expand_path(str(path)) for path in data)
    found: dict[str, Evaluation] = {}
    for name in names:
        opened = open_model(name)
        longest = opened.counts.order
        if order is not None and not 1 <= order <= longest:
            raise UsageError(f"--order must be 1 to {longest} for {name}, not {order}.")
        method = make_smoothing(smoothing or opened.card.smoothing, opened.counts, order)
        found[name] = evaluate_texts(method, opened.tokenizer, opened.card.tokenizer, texts)
    if as_json:
        rows = [{"name": name, **scores.to_dict()} for name, scores in found.items()]
        click.echo(dump_json(rows))
        return
    for name, scores in found.items():
        click.echo(f"{name}: {_perplexity_line(scores.to_dict())}")
