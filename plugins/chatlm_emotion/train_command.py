"""`chatlm emotion train`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from chatlm import dump_json
from chatlm.plugin_kit.options import json_option
from chatlm_emotion.options import resolve_classifier, teacher_option
from chatlm_emotion.recipe import DEFAULT_BASES, METHODS

if TYPE_CHECKING:
    from chatlm_emotion.card import ClassifierCard
    from chatlm_emotion.train_pipeline import TrainingJob


@click.command()
@click.argument("name")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Lines of {"text": …, "label": …}; a null label means unsure. Repeatable.',
)
@click.option(
    "--gold",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Gold data: like --data, but the teachers do not change its labels. Repeatable.",
)
@click.option(
    "--validation",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="As --data, for early stopping. Default: the held-out part of the data.",
)
@teacher_option
@click.option("--method", type=click.Choice(METHODS), default="encoder", show_default=True)
@click.option("--base", metavar="MODEL", help="Base model. Default: depends on the method.")
@click.option(
    "--attribute", default="mood", metavar="WORD", help="What the labels describe. Default: mood."
)
@click.option(
    "--threshold", type=float, default=0.5, help="Less probable labels become unsure. Default: 0.5"
)
@click.option("--ngrams", type=int, help="Longest n-gram of baseline. Default: 1")
@click.option("--strength", type=float, help="Inverse L2 penalty of baseline. Default: 3")
@click.option("--rank", type=int, help="Rank of the LoRA matrices. Default: 16")
@click.option("--dropout", type=float, help="Dropout before the head. Default: 0.1")
@click.option("--lora-dropout", type=float, help="LoRA dropout. Default: depends on the method.")
@click.option(
    "--learning-rate", type=float, help="Peak learning rate. Default: depends on the method."
)
@click.option("--smoothing", type=float, help="Label smoothing. Default: 0.05")
@click.option(
    "--teacher-weight", type=float, help="Weight of the teachers against the label. Default: 1"
)
@click.option("--epochs", type=int, help="Passes over the data. Default: depends on the method.")
@click.option("--batch-size", type=int, help="Batch size. Default: 16")
@click.option("--held-out", type=float, help="Share of each label held out. Default: 0.05")
@click.option("--evals-per-epoch", type=int, help="Evaluations per epoch. Default: 2")
@click.option(
    "--patience", type=int, help="Evaluations without a lower loss before stopping. Default: 4"
)
@click.option(
    "--max-length", type=int, help="Maximum tokens per text; the rest is cut off. Default: 128"
)
@click.option("--seed", type=int, help="Seed for the split and the order. Default: 0")
@click.option("--description", default="", metavar="TEXT", help="One line for the card.")
@click.option("--licence", default="", metavar="TEXT", help="Licence of the data, for the card.")
@click.option("--restart", is_flag=True, help="Discard a training run that was stopped.")
@click.option(
    "--finish", is_flag=True, help="Save the best classifier so far of a run that was stopped."
)
@json_option
@click.pass_context
def train(
    context: click.Context,
    /,
    name: str,
    data: tuple[Path, ...],
    gold: tuple[Path, ...],
    validation: Path | None,
    restart: bool,
    finish: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a classifier on labelled texts.

    Ctrl-C stops after the current step and keeps a checkpoint; a second one stops at once. The
    same command continues; --finish saves the best classifier so far instead. To label messages
    with it: chatlm emotion use NAME

    Example: chatlm emotion train topics --data topics.jsonl --attribute topic
    """
    from chatlm import expand_path
    from chatlm.plugin_kit.training import stop_on_interrupt, training_display
    from chatlm_emotion.card import CLASSIFIERS, RUNS

    CLASSIFIERS.new(name)
    if finish:
        if restart:
            raise click.UsageError("--finish and --restart exclude each other.")
        options = RUNS.options(name)
    elif not data:
        raise click.UsageError("Missing option '--data'.")
    else:
        files = {"data": data, "gold": gold, "validation": [validation] if validation else []}
        options = {key: value for key, value in settings.items() if value not in (None, ())}
        options |= {
            key: [str(expand_path(str(path)).absolute()) for path in paths]
            for key, paths in files.items()
        }
        options["command"] = _command_line(
            context,
            name,
            {"data": data, "gold": gold, "teacher": settings["teacher"]},
        )
    order = _training_job(name, options)
    from chatlm_emotion.train_pipeline import train_classifier

    with stop_on_interrupt(RUNS.hint(name)) as should_stop, training_display() as listener:
        made = train_classifier(
            order, listener, should_stop, options=options, restart=restart, finish=finish
        )
    _print_result(made, as_json)


def _training_job(name: str, options: Mapping[str, Any]) -> TrainingJob:
    """Return the job for options of the command line, given or of a run that was stopped."""
    import re

    from chatlm import UsageError, ensure_model
    from chatlm_emotion import classifier, examples
    from chatlm_emotion.recipe import METHOD_DEFAULTS, TEACHABLE_METHODS, Recipe

    attribute, threshold = options["attribute"], options["threshold"]
    if not re.fullmatch("[a-z][a-z0-9-]{0,29}", attribute):
        raise UsageError(
            f"--attribute cannot be {attribute!r}.",
            hint="Use lower-case letters, digits and hyphens: --attribute topic",
        )
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold must be from 0 to 1, not {threshold:g}.")
    method = options["method"]
    recipe = Recipe.from_dict({**METHOD_DEFAULTS[method], **options})
    teachers = [resolve_classifier(each) for each in options.get("teacher", ())]
    if teachers and method not in TEACHABLE_METHODS:
        raise UsageError(
            f"The method {method} cannot learn from a teacher.",
            hint=f"These can: {', '.join(TEACHABLE_METHODS)}.",
        )
    files = {key: list(map(Path, options[key])) for key in ("data", "gold", "validation")}
    read = examples.read_dataset([*files["data"], *files["gold"]])
    known = examples.read_dataset(files["gold"], min_labels=0).rows
    from chatlm_emotion.train_pipeline import TrainingJob

    return TrainingJob(
        name=name,
        attribute=attribute,
        dataset=read,
        recipe=recipe,
        base=None
        if method == "baseline"
        else ensure_model(options.get("base") or DEFAULT_BASES[method]),
        threshold=threshold,
        teachers=tuple(map(classifier.load_classifier, teachers)),
        trusted_texts=frozenset(row.text for row in known),
        validation=examples.read_dataset(files["validation"]) if files["validation"] else None,
        description=options.get("description", ""),
        licence=options.get("licence", ""),
        command=options["command"],
    )


def _command_line(
    context: click.Context, name: str, repeated_options: Mapping[str, Sequence[Path | str]]
) -> str:
    """Return the command for the card, without --json, and files without their folders."""
    words = ["chatlm", "emotion", "train", name]
    for option_name, values in repeated_options.items():
        for each in values:
            words += [f"--{option_name}", _without_folder(each)]
    for option in context.command.params:
        key = option.name or ""
        given = context.get_parameter_source(key) is ParameterSource.COMMANDLINE
        passed_over = {"name", "restart", "finish", "as_json", *repeated_options}
        if given and key not in passed_over:
            value = context.params[key]
            words += [max(option.opts, key=len), _without_folder(value)]
    return shlex.join(words)


def _without_folder(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)


def _print_result(card: ClassifierCard, as_json: bool) -> None:

    if as_json:
        click.echo(dump_json(card.to_dict()))
        return
    scores, cost = card.scores, card.cost
    click.echo(
        f"{card.name}: {scores['accuracy']:.1%} of {card.source['held_out']:,} held-out texts "
        f"correct, macro-F1 {scores['macro_f1']:.3f}, calibration error {scores['ece']:.3f}; "
        f"{cost['seconds']:,.0f} s, {cost['ended']}."
    )
    click.echo(f"Label messages with it: chatlm emotion use {card.name}")
