"""`chatlm align`: from votes to an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import UsageError, data_dir, dump_json, escape_controls
from chatlm.plugin_kit.options import json_option
from chatlm_lora.alignment.enough import PairCount, share_interval
from chatlm_lora.options import command_line, model_option, recipe_options
from chatlm_lora.train_command import build_job

if TYPE_CHECKING:
    from chatlm_lora.alignment.pairs import PairRows
    from chatlm_lora.card import AdapterCard
    from chatlm_lora.dataset import TrainingData
    from chatlm_lora.recipe import Recipe, TrainingJob

SOURCES = ("votes", "versions")
"""What `--data` takes besides a file."""

METHODS = ("sft", "dpo", "ipo", "kto", "orpo")

DEFAULTS: Mapping[str, Any] = {
    "dropout": 0.0,
    "learning_rate": 0.0001,
    "batch_size": 2,
    "gradient_accumulation": 4,
    "held_out": 0.2,
    "evals_per_epoch": 2,
}
"""Hyperparameters that differ from those of `chatlm adapters train`."""

_data_option = click.option(
    "--data",
    default="votes",
    metavar="votes|versions|FILE",
    help="The arena's votes; the versions of replies in your chats, of which you went on with one; "
    "or a file of JSON lines with prompt, chosen and rejected. Default: votes",
)
_judge_option = click.option(
    "--judge",
    metavar="NAME",
    help="Whose votes count; all for everybody's. Default: human (you)",
)


@click.group()
def align() -> None:
    """Train an adapter on your votes.

    Example: chatlm align train mine
    """


@align.command()
@_data_option
@_judge_option
@click.option(
    "--held-out", type=click.FloatRange(0.001, 0.9), help="Share that is held out. Default: 0.2"
)
@json_option
def pairs(data: str, judge: str | None, held_out: float | None, as_json: bool) -> None:
    """Show how many pairs the votes give, and how many are missing.

    Example: chatlm align pairs
    """
    from chatlm_lora.alignment.pairs import count_pairs, explain_count

    _check_judge(data, judge)
    share = held_out or DEFAULTS["held_out"]
    found = count_pairs(_read_rows(data, judge))
    count = PairCount(found["pairs"], share)
    if as_json:
        missing = {
            "missing": count.missing,
            "missing_for_verdict": count.missing_for_verdict,
        }
        click.echo(dump_json(found | missing))
        return
    click.echo(escape_controls(explain_count(found, count)))


@align.command()
@click.argument("name")
@_data_option
@_judge_option
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="dpo",
    help="sft imitates the better replies; dpo, ipo and kto compare with the base; orpo needs no "
    "base. Default: dpo",
)
@click.option(
    "--beta",
    type=float,
    help="How strongly the base holds back (dpo, kto: 0.1), τ (ipo: 1), λ (orpo: 0.1).",
)
@click.option(
    "--length-normalised",
    is_flag=True,
    help="dpo and kto: compare means over tokens, so that length counts less.",
)
@model_option
@click.option(
    "--from",
    "start",
    metavar="ADAPTER",
    help="Start from the weights of this adapter, with its rank, alpha and targets.",
)
@click.option("--system", default="", metavar="TEXT", help="System prompt for pairs without one.")
@recipe_options(**DEFAULTS)
@click.option("--description", default="", metavar="TEXT", help="One line shown by `list`.")
@click.option("--licence", default="", metavar="TEXT", help="Licence of the data, for the card.")
@click.option("--restart", is_flag=True, help="Discard a training run that was stopped.")
@click.option(
    "--finish", is_flag=True, help="Save the best adapter so far of a run that was stopped."
)
@json_option
@click.pass_context
def train(
    context: click.Context,
    /,
    name: str,
    data: str,
    restart: bool,
    finish: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train an adapter on pairs of replies of which you preferred one.

    Prompts that are held out decide when to stop. Ctrl-C stops after the current step and keeps a
    checkpoint; a second one stops at once. The same command continues with the votes it began
    with, after a crash too; --finish saves the best adapter so far instead.

    Example: chatlm align train mine --method dpo
    """
    from chatlm_lora.checkpoints import ALIGNMENT_RUNS as RUNS
    from chatlm_lora.library import ADAPTERS

    ADAPTERS.new(name)
    if finish:
        if restart:
            raise click.UsageError("--finish and --restart exclude each other.")
        options = RUNS.options(name)
    else:
        _check_judge(data, settings["judge"])
        given = {
            key: list(value) if isinstance(value, tuple) else value  # as JSON has it
            for key, value in settings.items()
            if value not in (None, ()) and value is not False  # 0 was given
        }
        path = None if data in SOURCES else Path(data).expanduser().absolute()
        options = given | {
            "data": str(path or data),
            "command": command_line(context, "align train", name, path.name if path else data),
        }
        if path is None:
            earlier = RUNS.options(name) if RUNS.has(name) and not restart else {}
            same = {key: value for key, value in earlier.items() if key not in ("rows", "model")}
            goes_on = same == {key: value for key, value in options.items() if key != "model"}
            options["rows"] = (
                earlier["rows"] if goes_on else list(_read_source(data, settings["judge"]))
            )
    job = _alignment_job(name, options)
    options["model"] = job.base.name  # the default may be another one when it continues

    from chatlm.plugin_kit.training import training_display
    from chatlm_lora.trainer import train_adapter

    with training_display() as listener:
        card = train_adapter(
            job, listener, options=options, restart=restart, finish=finish, runs=RUNS
        )
    if card is not None:
        click.echo(dump_json(card.to_dict()) if as_json else describe_result(card))


def describe_result(card: AdapterCard) -> str:
    """Return what training brought, as lines of text."""
    scores, cost = card.scores, card.cost
    count = card.source["held_out"]
    low, high = share_interval(scores["accuracy"] * count, count)
    before = scores["before"]["answer_tokens"]
    lines = [
        f"{card.name}: prefers the better reply in {scores['accuracy']:.0%} of {count} held-out "
        f"pairs ({low:.0%} to {high:.0%}, 95 % interval), best at step {cost['best_step']} of "
        f"{cost['steps']}, {cost['seconds']:,.0f} s.",
        f"Margin {scores['margin']:+.2f} nats per reply, KL to the base {scores['KL']:.3f} nats "
        f"per token, answers of {before:.0f} → {scores['answer_tokens']:.0f} tokens.",
    ]
    if low <= 0.5 <= high:
        needed = PairCount(
            card.source["train"] + card.source["held_out"], card.settings["held_out"]
        ).missing_for_verdict
        more = f" About {needed:,} more pairs would probably settle it." if needed else ""
        lines.append(f"That may be chance: the interval includes 50 %.{more}")
    elif high < 0.5:
        lines.append("That is worse than the base: try a lower --learning-rate or a higher --beta.")
    for answer in card.answers[:2]:
        lines += [f"\n> {answer.prompt}", f"  before: {answer.before}", f"  after:  {answer.after}"]
    lines.append(f"\nAll details: chatlm adapters show {card.name}")
    return escape_controls("\n".join(lines))


def _read_rows(data: str, judge: str | None) -> PairRows:
    from chatlm_lora.alignment.pairs import rows_of_file, rows_of_votes

    if data in SOURCES:
        return rows_of_votes(_read_source(data, judge), data)
    return rows_of_file(Path(data).expanduser())


def _check_judge(data: str, judge: str | None) -> None:
    if judge is not None and data != "votes":
        raise UsageError("--judge has no meaning without votes.", hint="Use --data votes.")


def _read_source(data: str, judge: str | None) -> Sequence[Mapping[str, Any]]:
    """Return the rows of the votes or the versions."""
    from chatlm_lora.alignment.versions import read_versions
    from chatlm_lora.alignment.votes import USER, read_votes

    return read_votes(judge or USER) if data == "votes" else read_versions(data_dir() / "chats.db")


def _alignment_job(name: str, options: Mapping[str, Any]) -> TrainingJob:
    """Return the job for options of the command line, given or of a run that was stopped."""
    from chatlm_lora.alignment.objectives import DEFAULT_BETA, Objective
    from chatlm_lora.alignment.pairs import read_pairs, rows_of_file, rows_of_votes
    from chatlm_lora.alignment.preference_data import PreferenceData

    if "method" not in options:
        raise UsageError(
            f"The training of {name} was started by chatlm adapters train.",
            hint=f"Finish it with that command: chatlm adapters train {name} --finish",
        )
    method = options["method"]
    objective = Objective(
        method,
        options.get("beta", DEFAULT_BETA[method]),
        options.get("length_normalised", False),
    )

    def read(recipe: Recipe) -> TrainingData:
        rows = options.get("rows")
        source = (
            rows_of_file(Path(options["data"]))
            if rows is None
            else rows_of_votes(rows, options["data"])
        )
        found = read_pairs(
            source,
            seed=recipe.seed,
            held_out_share=recipe.held_out,
            system_prompt=options.get("system", ""),
        )
        return PreferenceData(found, objective)

    data_options = ("data", "rows", "judge", "method", "beta", "length_normalised", "system")
    return build_job(name, {**DEFAULTS, **options}, data_options, read)
