"""`chatlm lab`: list, show, remove and eval; the group of its other commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import dump_json, escape_controls, human_bytes
from chatlm.plugin_kit.options import complete_names, json_option
from chatlm_lab.curve_command import curve
from chatlm_lab.demo_command import demo
from chatlm_lab.options import data_option, model_names, name_argument, perplexity_line
from chatlm_lab.tokenizer_command import tokenizer
from chatlm_lab.train_command import train
from chatlm_lab.vector_commands import vectors

if TYPE_CHECKING:
    from chatlm_lab.evaluation import Evaluation


@click.group()
def lab() -> None:
    """Build language models and see how they work.

    Example: chatlm lab train poems --arch ngram --data poems.txt
    """


lab.add_command(tokenizer)
lab.add_command(train)
lab.add_command(curve)
lab.add_command(demo)
lab.add_command(vectors)


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
                "tokenizer": card.tokenizer,
                "vocabulary": card.vocabulary,
                "settings": dict(card.settings),
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
    help="Smoothing of n-grams. Default: each model's own.",
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
    from chatlm import expand_path
    from chatlm_lab.corpus import read_texts
    from chatlm_lab.evaluation import evaluate as evaluate_texts
    from chatlm_lab.opening import open_model

    texts = read_texts(expand_path(str(path)) for path in data)
    given = {"smoothing": smoothing, "order": order}
    options = {key: value for key, value in given.items() if value is not None}
    found: dict[str, Evaluation] = {}
    for name in names:
        opened = open_model(name)
        predictor = opened.predictor(options)
        kind: Any = opened.card.tokenizer
        found[name] = evaluate_texts(predictor, opened.tokenizer, kind, texts)
    if as_json:
        rows = [{"name": name, **scores.to_dict()} for name, scores in found.items()]
        click.echo(dump_json(rows))
        return
    for name, scores in found.items():
        click.echo(f"{name}: {perplexity_line(scores.to_dict())}")
