"""`chatlm adapters train`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import UsageError, dump_json, escape_controls
from chatlm.plugin_kit.options import json_option
from chatlm_lora.options import command_line, recipe_options, resolve_base_model
from chatlm_lora.options import model_option as _model

if TYPE_CHECKING:
    from chatlm import ModelLocation
    from chatlm_lora.card import AdapterCard
    from chatlm_lora.dataset import TrainingData
    from chatlm_lora.recipe import Recipe, StartingAdapter, TrainingJob


@click.command()
@click.argument("name")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="JSON lines, or one JSON list: messages; instruction, input and output; prompt and "
    "completion; or text and label, with --ask.",
)
@_model
@click.option(
    "--from",
    "start",
    metavar="ADAPTER",
    help="Start from the weights of this adapter, with its rank, alpha and targets.",
)
@click.option(
    "--ask", default="", metavar="TEXT", help="Question with {text} whose answer is the label."
)
@click.option(
    "--system", default="", metavar="TEXT", help="System prompt for examples without one."
)
@recipe_options()
@click.option("--description", default="", metavar="TEXT", help="One line shown by `list`.")
@click.option("--licence", default="", metavar="TEXT", help="Licence of the data, for the card.")
@click.option("--restart", is_flag=True, help="Discard a training run that was stopped.")
@click.option(
    "--finish", is_flag=True, help="Save the best adapter so far of a run that was stopped."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and exit.")
@json_option
@click.pass_context
def train(
    context: click.Context,
    /,
    name: str,
    data: Path | None,
    restart: bool,
    finish: bool,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train an adapter on example answers.

    Ctrl-C stops after the current step and keeps a checkpoint; a second one stops at once. The
    same command continues, after a crash too; --finish saves the best adapter so far instead.
    On several GPUs: accelerate launch -m chatlm adapters train …

    Example: chatlm adapters train pirate --data pirate.jsonl
    """
    from chatlm_lora.checkpoints import RUNS
    from chatlm_lora.library import ADAPTERS

    ADAPTERS.new(name)
    if finish:
        if restart:
            raise click.UsageError("--finish and --restart exclude each other.")
        options = RUNS.options(name)
    elif data is None:
        raise click.UsageError("Missing option '--data'.")
    else:
        given = {key: value for key, value in settings.items() if value not in (None, ())}
        options = given | {
            "data": str(data.expanduser().absolute()),
            "command": command_line(context, "adapters train", name, data.name),
        }
    job = _training_job(name, options)
    options |= {"model": job.base.name}  # the default may be another one when it continues
    if dry_run:
        _print_plan(job, as_json)
        return
    from chatlm.plugin_kit.training import training_display
    from chatlm_lora.trainer import train_adapter

    with training_display() as listener:
        card = train_adapter(job, listener, options=options, restart=restart, finish=finish)
    if card is not None:
        _print_result(card, as_json)


def _training_job(name: str, options: Mapping[str, Any]) -> TrainingJob:
    """Return the job for options of the command line, given or of a run that was stopped."""
    from chatlm_lora import dataset

    if "method" in options:
        raise UsageError(
            f"The training of {name} was started by chatlm align train.",
            hint=f"Finish it with that command: chatlm align train {name} --finish",
        )
    data_options = ("data", "ask", "system")

    def read(recipe: Recipe) -> TrainingData:
        return dataset.read_dataset(
            Path(options["data"]),
            seed=recipe.seed,
            held_out_share=recipe.held_out,
            question_template=options.get("ask", ""),
            system_prompt=options.get("system", ""),
        )

    return build_job(name, options, data_options, read)


def build_job(
    name: str,
    options: Mapping[str, Any],
    data_options: Collection[str],
    read: Callable[[Recipe], TrainingData],
) -> TrainingJob:
    """Return the job for options of a command that trains.

    Args:
        name: name of the new adapter.
        options: by name; those that were not given are missing.
        data_options: names of the options that belong to the data alone.
        read: returns the data for the hyperparameters.

    Raises:
        UsageError: options are not valid or do not go together.
        ChatlmError: the base model or the data cannot be used.
    """
    import torch

    from chatlm import load_config
    from chatlm_lora.recipe import Recipe, TrainingJob

    others = {"command", "model", "start", "description", "licence", *data_options}
    recipe_options = {key: value for key, value in options.items() if key not in others}
    # before the model, which may have to be downloaded
    dataset = read(Recipe.from_dict(recipe_options))
    base = resolve_base_model(options.get("model"))
    start = _starting_adapter(options["start"], base) if options.get("start") else None
    if start is not None:
        shape = start.shape()
        if given := sorted(shape.keys() & recipe_options.keys()):
            raise UsageError(
                f"With --from, {', '.join(given)} cannot be chosen.",
                hint=f"They are those of the adapter {start.name}.",
            )
        recipe_options |= shape
    recipe = Recipe.from_dict(recipe_options)
    config = load_config()
    return TrainingJob(
        name=name,
        base=base,
        dataset=dataset,
        recipe=recipe,
        prompt_format=config.prompt_format,
        description=options.get("description", ""),
        licence=options.get("licence", ""),
        command=options["command"],
        use_cpu=config.device == "cpu" or not torch.accelerator.is_available(),
        start=start,
    )


def _starting_adapter(name: str, base: ModelLocation) -> StartingAdapter:
    """Check an adapter of the user's or a shipped one, and describe it."""
    from chatlm_lora.library import ADAPTERS, validate_cached
    from chatlm_lora.recipe import StartingAdapter

    adapter = ADAPTERS.get(name)
    validate_cached(adapter, base)
    return StartingAdapter.of(adapter)


def _print_plan(job: TrainingJob, as_json: bool) -> None:
    import os

    from chatlm_lora.recipe import prepare_data

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    data = prepare_data(job, processes)
    if os.environ.get("RANK", "0") != "0":
        return
    plan = {
        "name": job.name,
        "base": job.base.name,
        "train": data.examples.train_count,
        "held_out": data.examples.held_out_count,
        "repeated": job.dataset.source()["repeated"],
        "too_long": data.examples.too_long,
        "tokens_an_epoch": data.examples.total_tokens,
        "processes": processes,
        "steps": data.total_steps,
        "check_every": data.eval_steps,
        "recipe": job.recipe.to_dict(),
    }
    if as_json:
        click.echo(dump_json(plan))
        return
    click.echo(
        f"{job.name} on {job.base.name}: {plan['train']:,} examples to train on "
        f"({plan['tokens_an_epoch']:,} tokens), {plan['held_out']:,} held out; "
        f"{plan['repeated']:,} duplicates and {plan['too_long']:,} too long left out."
    )
    click.echo(
        f"{plan['steps']:,} steps in {processes} process{'es' if processes > 1 else ''}, "
        f"an evaluation every {plan['check_every']:,}."
    )


def _print_result(card: AdapterCard, as_json: bool) -> None:
    if as_json:
        click.echo(dump_json(card.to_dict()))
        return
    scores, cost = card.scores, card.cost
    before, after = scores["held_out_loss_before"], scores["held_out_loss_after"]
    click.echo(
        f"{card.name}: held-out loss {before:.3f} → {after:.3f} ({-scores['fall']:+.1%}), "
        f"best at step {cost['best_step']} of {cost['steps']}, {cost['seconds']:,.0f} s."
    )
    if after >= before:
        click.echo(
            "It is not better than the base model: more data or a lower --learning-rate may help."
        )
    for answer in card.answers[:2]:
        click.echo(escape_controls(f"\n> {answer.prompt}\n  before: {answer.before}"))
        click.echo(escape_controls(f"  after:  {answer.after}"))
    click.echo(f"\nAll details: chatlm adapters show {card.name}")
