"""`chatlm adapters train`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from chatlm import UsageError, dump_json, escape_controls
from chatlm.plugin_kit.options import json_option
from chatlm_lora.options import model_option as _model
from chatlm_lora.options import resolve_base_model

if TYPE_CHECKING:
    from chatlm import ModelLocation
    from chatlm_lora.card import AdapterCard
    from chatlm_lora.recipe import StartingAdapter, TrainingJob


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
@click.option("--rank", type=int, help="Rank of the LoRA matrices. Default: 8")
@click.option(
    "--alpha", type=float, help="LoRA alpha; the update is scaled by alpha / rank. Default: 16"
)
@click.option("--dropout", type=float, help="LoRA dropout. Default: 0.05")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="MODULE",
    help="Module to adapt, such as q_proj; repeatable. Default: all-linear",
)
@click.option("--learning-rate", type=float, help="Peak learning rate. Default: 0.0003")
@click.option("--epochs", type=float, help="Passes over the data. Default: 3")
@click.option("--batch-size", type=int, help="Batch size per device. Default: 8")
@click.option(
    "--gradient-accumulation", type=int, help="Gradient accumulation: batches per step. Default: 1"
)
@click.option("--warmup-ratio", type=float, help="Warm-up, as a share of the steps. Default: 0.05")
@click.option(
    "--held-out", type=float, help="Share of the data held out for evaluation. Default: 0.1"
)
@click.option("--evals-per-epoch", type=int, help="Evaluations per epoch. Default: 4")
@click.option(
    "--patience",
    type=int,
    help="Evaluations without a lower loss before stopping early. Default: 3",
)
@click.option(
    "--max-length",
    type=int,
    help="Maximum tokens per example; longer ones are left out. Default: 1024",
)
@click.option("--seed", type=int, help="Seed for the split and the order. Default: 0")
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
            "command": _command_line(context, name, data),
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
    import torch

    from chatlm import load_config
    from chatlm_lora import dataset
    from chatlm_lora.recipe import Recipe, TrainingJob

    others = ("data", "command", "model", "start", "ask", "system", "description", "licence")
    base = resolve_base_model(options.get("model"))
    recipe_options = {key: value for key, value in options.items() if key not in others}
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
    read = dataset.read_dataset(
        Path(options["data"]),
        seed=recipe.seed,
        held_out_share=recipe.held_out,
        question_template=options.get("ask", ""),
        system_prompt=options.get("system", ""),
    )
    config = load_config()
    return TrainingJob(
        name=name,
        base=base,
        dataset=read,
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


def _command_line(context: click.Context, name: str, data: Path) -> str:
    """Return the command for the card, without options that do not change the result."""
    words = ["chatlm", "adapters", "train", name, "--data", data.name]
    passed_over = {"name", "data", "restart", "finish", "dry_run", "as_json"}
    for option in context.command.params:
        key = option.name or ""
        given = context.get_parameter_source(key) is ParameterSource.COMMANDLINE
        if given and key not in passed_over:
            value = context.params[key]
            for each in value if option.multiple else [value]:
                words += [max(option.opts, key=len), str(each)]
    return shlex.join(words)


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
        "train": len(data.train),
        "held_out": len(data.held_out),
        "repeated": job.dataset.duplicates,
        "too_long": data.train.too_long + data.held_out.too_long,
        "tokens_an_epoch": data.train.total_tokens,
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
