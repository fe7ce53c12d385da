"""`chatlm arena` and its commands for votes and ratings."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatlm import UsageError, dump_json, escape_controls, write_atomically
from chatlm.plugin_kit.options import json_option
from chatlm_arena.commands.contestants import contestants
from chatlm_arena.commands.golden import check, golden
from chatlm_arena.commands.options import elo_options as _elo
from chatlm_arena.commands.options import judge_option as _judge
from chatlm_arena.commands.statistics import (
    aspects,
    audit,
    judge,
    judges,
    rubrics,
    speed,
    topics,
)
from chatlm_arena.commands.tournament import perplexity, run

if TYPE_CHECKING:
    from chatlm_arena.store.store import ArenaStore

NO_VOTES = "No votes yet. Vote: chatlm arena"

NO_TEXTS = "None of the votes has replies whose style could be compared."


@click.group(invoke_without_command=True)
@click.pass_context
def arena(context: click.Context) -> None:
    """Compare models, adapters and prompts blind, and rate them.

    Without a command, the arena opens in the terminal.

    Example: chatlm arena contestants add cold -s temperature=0.2
    """
    if context.invoked_subcommand is None:
        from chatlm_arena.actions import run_arena

        run_arena()


for _command in (
    contestants,
    run,
    golden,
    check,
    perplexity,
    audit,
    judges,
    judge,
    rubrics,
    aspects,
    speed,
    topics,
):
    arena.add_command(_command)


@arena.command()
@_elo
@_judge
@click.option(
    "--matrix", is_flag=True, help="Also show how often each contestant beats each other one."
)
@click.option("--history", is_flag=True, help="Also show the Elo ratings over time.")
@click.option(
    "--label",
    metavar="LABEL",
    help="Count only matches whose first message has this label of the classifier, such as anger.",
)
@click.option(
    "--ties",
    type=click.Choice(["half-wins", "davidson"]),
    default="half-wins",
    help="How ties count: as half a win for both, or as an outcome of its own (Davidson). "
    "Default: half-wins",
)
@click.option(
    "--style",
    is_flag=True,
    help="Rate replies as if of equal length and Markdown, and show what these are worth.",
)
@click.option(
    "--corrected",
    metavar="JUDGE",
    help="Your votes, narrowed by those of a judge, whose bias is corrected (prediction-powered).",
)
@json_option
def leaderboard(
    k: float,
    start: float,
    judge: str,
    matrix: bool,
    history: bool,
    label: str | None,
    ties: str,
    style: bool,
    corrected: str | None,
    as_json: bool,
) -> None:
    """Show the ratings, strongest first.

    The rating is a Bradley-Terry rating on the Elo scale, with its 95 % interval. The Elo rating
    next to it depends on the order of the votes. JSON has the Bradley-Terry strengths, which sum
    to 1.

    --label ranks the contestants on one kind of message, as plugins.emotion.classifier labels it.
    That can be a classifier of your own: chatlm emotion train

    --ties davidson and --style fit other models of the votes, and show how the places change.
    --corrected needs matches that both you and the judge have judged: chatlm arena judge

    Example: chatlm arena leaderboard --matrix
    """
    from chatlm_arena import charts, summaries
    from chatlm_arena import leaderboard as leaderboard_module
    from chatlm_arena.ratings import EloRules
    from chatlm_arena.store import store as store_module

    rules = EloRules(k=k, initial_rating=start)
    if corrected is not None:
        if judge or label is not None or style or ties != "half-wins":
            raise UsageError("--corrected goes with no other option than --json.")
        _show_corrected(corrected, as_json)
        return
    with store_module.open_arena_store() as store:
        matches = None if label is None else _matches_with_label(store, label)
        votes = store.votes(judge, matches)
        lengths = store.reply_lengths(judge, matches)
        modelled = style or ties != "half-wins"
        facts = store.vote_facts(judge, matches) if modelled else []
    if modelled:
        from chatlm_arena.statistics.boards import build_board
        from chatlm_arena.statistics.preference_model import Ties

        fitted = build_board(votes, facts, Ties(ties), with_style=style)
        if as_json:
            click.echo(dump_json(fitted.to_dict()))
        elif not fitted.votes:
            click.echo(NO_VOTES if not len(votes) else NO_TEXTS)
        else:
            click.echo(escape_controls("\n".join(summaries.board_lines(fitted))))
        return
    board = leaderboard_module.build_leaderboard(votes, rules)
    if as_json:
        click.echo(dump_json([row.to_dict() for row in board.rows]))
        return
    if not len(votes):
        click.echo(NO_VOTES)
        return
    width = shutil.get_terminal_size().columns
    lines = list(charts.leaderboard_table(board.rows, width))
    if matrix:
        lines += ["", *charts.matrix_table(board)]
    if history:
        lines += ["", *charts.elo_sparklines(board, width)]
    findings = leaderboard_module.describe_findings(
        board,
        leaderboard_module.measure_side_bias(votes.score),
        leaderboard_module.measure_length_bias(*lengths),
    )
    click.echo(escape_controls("\n".join([*lines, "", *findings])).rstrip())


@arena.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_votes(file: Path) -> None:
    """Import votes: CSV with left,right,winner, or JSON lines in LMArena's format.

    Either all votes of a file are imported or none. A file can be imported only once.

    Example: chatlm arena import votes.csv
    """
    from chatlm_arena import vote_files
    from chatlm_arena.store import store as store_module

    file = file.expanduser()
    digest = vote_files.file_sha256(file)
    with store_module.open_arena_store() as store:
        count = store.import_votes(vote_files.read_votes(file), file.name, digest)
    noun = "vote" if count == 1 else "votes"
    click.echo(f"Imported {count:,} {noun}. Show the ratings: chatlm arena leaderboard")


@arena.command()
@click.option(
    "--as",
    "format_",
    type=click.Choice(["sft", "dpo"]),
    default="sft",
    help="sft: the better replies, for chatlm adapters train; dpo: chosen and rejected, for chatlm "
    "align train and TRL.",
)
@_judge
@click.option(
    "--to", "path", type=click.Path(path_type=Path), help="Write to this file instead of printing."
)
def export(format_: str, judge: str, path: Path | None) -> None:
    """Export the votes as training examples, JSON lines.

    Example: chatlm arena export --as dpo --to preferences.jsonl
    """
    from chatlm_arena import vote_files
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        judged = store.voted_matches(judge)
        to_examples = vote_files.sft_examples if format_ == "sft" else vote_files.dpo_examples
        examples = to_examples(judged, store.image)
        lines = [json.dumps(row, ensure_ascii=path is None) + "\n" for row in examples]
    if path is None:
        sys.stdout.writelines(lines)
        return
    _write_file(path, lines)
    click.echo(f"Wrote {len(lines):,} {'example' if len(lines) == 1 else 'examples'}.")


@arena.command()
@_elo
@_judge
@click.option(
    "--to",
    "path",
    type=click.Path(path_type=Path),
    default=Path("arena.html"),
    help="The file to write. Default: arena.html",
)
def report(k: float, start: float, judge: str, path: Path) -> None:
    """Write the ratings as a self-contained HTML page with charts.

    Example: chatlm arena report --to arena.html
    """
    from chatlm_arena import leaderboard as leaderboard_module
    from chatlm_arena.ratings import EloRules
    from chatlm_arena.report import html_page, newest_run_table
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        board = leaderboard_module.build_leaderboard(
            store.votes(judge), EloRules(k=k, initial_rating=start)
        )
        lengths, tables = store.reply_lengths(judge), newest_run_table(store)
    findings = leaderboard_module.describe_findings(
        board,
        leaderboard_module.measure_side_bias(board.votes.score),
        leaderboard_module.measure_length_bias(*lengths),
    )
    _write_file(path, [html_page(board, findings, tables)])
    click.echo(escape_controls(f"Wrote {path}."))


def _show_corrected(judge_name: str, as_json: bool) -> None:
    from chatlm_arena import summaries
    from chatlm_arena.statistics.judges import powered_board
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        rows, fit = powered_board(store.judged_matches(), judge_name)
    if as_json:
        values = {
            "judge": judge_name,
            "shared": fit.shared,
            "judge_only": fit.judge_only,
            "trust": fit.trust,
            "rows": [row.to_dict() for row in rows],
        }
        click.echo(dump_json(values))
        return
    click.echo(escape_controls("\n".join(summaries.powered_lines(rows, fit, judge_name))))


def _matches_with_label(store: ArenaStore, label: str) -> list[int]:
    from chatlm import Classifier, service
    from chatlm.plugin_kit.progress import progress_bar
    from chatlm_arena.labels import matches_with_label

    with service("classifier", Classifier) as classifier, progress_bar() as progress:
        return matches_with_label(store.first_prompts(), label, classifier, progress.update)


def _write_file(path: Path, chunks: list[str]) -> None:
    try:
        write_atomically(path.expanduser(), chunks)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
