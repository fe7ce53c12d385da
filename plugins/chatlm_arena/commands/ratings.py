"""The commands `chatlm arena …` about votes and ratings: what is asked and printed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import click

from chatlm import UsageError, dump_json, escape_controls, write_atomically
from chatlm_arena.commands.contestants import contestants
from chatlm_arena.commands.golden import check, golden
from chatlm_arena.commands.options import as_json_option as _json
from chatlm_arena.commands.options import elo_options as _elo
from chatlm_arena.commands.options import judge_option as _judge
from chatlm_arena.commands.tournament import perplexity, run

NO_VOTES = "There are no votes yet. Give some: chatlm arena"


@click.group(invoke_without_command=True)
@click.pass_context
def arena(context: click.Context) -> None:
    """Compare models, adapters and prompts blind, and rate them.

    Without a command the arena opens in the terminal.

    Example: chatlm arena contestants add cold -s temperature=0.2
    """
    if context.invoked_subcommand is None:
        from chatlm_arena.actions import run_arena

        run_arena()


arena.add_command(contestants)


arena.add_command(run)


arena.add_command(golden)


arena.add_command(check)


arena.add_command(perplexity)


@arena.command()
@_elo
@_judge
@click.option("--matrix", is_flag=True, help="Add how often each beats each.")
@click.option("--history", is_flag=True, help="Add the Elo ratings over the matches.")
@_json
def leaderboard(
    k: float, start: float, judge: str, matrix: bool, history: bool, as_json: bool
) -> None:
    """Show the ratings, the strongest first.

    The rating is Bradley and Terry's on Elo's scale, with the interval in which it lies with 95 %
    certainty; Elo's own rating depends on the order of the votes. JSON has the strengths
    themselves, which sum to 1.

    Example: chatlm arena leaderboard --matrix
    """
    from chatlm_arena import charts
    from chatlm_arena import leaderboard as leaderboard_module
    from chatlm_arena.leaderboard import build_leaderboard as rated
    from chatlm_arena.ratings import EloRules
    from chatlm_arena.store import store as store_module

    rules = EloRules(k=k, initial_rating=start)
    with store_module.open_arena_store() as store:
        votes = store.votes(judge)
        lengths = store.reply_lengths(judge)
    found = rated(votes, rules)
    if as_json:
        click.echo(dump_json([row.to_dict() for row in found.rows]))
        return
    if not len(votes):
        click.echo(NO_VOTES)
        return
    width = shutil.get_terminal_size().columns
    lines = list(charts.leaderboard_table(found.rows, width))
    if matrix:
        lines += ["", *charts.matrix_table(found)]
    if history:
        lines += ["", *charts.elo_sparklines(found, width)]
    said = leaderboard_module.describe_findings(
        found,
        leaderboard_module.measure_side_bias(votes.score),
        leaderboard_module.measure_length_bias(*lengths),
    )
    click.echo(escape_controls("\n".join([*lines, "", *said])).rstrip())


@arena.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_votes(file: Path) -> None:
    """Take in votes: CSV with left,right,winner, or JSON lines as LMArena has them.

    All votes of a file are taken, or none; a file is taken once only.

    Example: chatlm arena import votes.csv
    """
    from chatlm_arena import vote_files
    from chatlm_arena.store import store as store_module

    file = file.expanduser()
    digest = vote_files.file_sha256(file)
    with store_module.open_arena_store() as store:
        count = store.import_votes(vote_files.read_votes(file), file.name, digest)
    what = "vote" if count == 1 else "votes"
    click.echo(f"Took in {count:,} {what}. See the ratings: chatlm arena leaderboard")


@arena.command()
@click.option(
    "--as",
    "form",
    type=click.Choice(["sft", "dpo"]),
    default="sft",
    help="sft: the better replies, for chatlm adapters train; dpo: better and worse, for TRL.",
)
@_judge
@click.option("--to", "path", type=click.Path(path_type=Path), help="A file; else printed.")
def export(form: str, judge: str, path: Path | None) -> None:
    """Write the votes as examples to train from, JSON lines.

    Example: chatlm arena export --as dpo --to preferences.jsonl
    """
    from chatlm_arena import vote_files
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        judged = [
            (ballot, store.match(ballot.match_id))
            for ballot in store.ballots(judge)
            if ballot.match_id is not None
        ]
    made = vote_files.sft_examples(judged) if form == "sft" else vote_files.dpo_examples(judged)
    lines = [json.dumps(row, ensure_ascii=path is None) + "\n" for row in made]
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
    help="The file. Default: arena.html",
)
def report(k: float, start: float, judge: str, path: Path) -> None:
    """Write the ratings as one HTML page with pictures, to be read without a network.

    Example: chatlm arena report --to arena.html
    """
    from chatlm_arena import leaderboard as leaderboard_module
    from chatlm_arena.leaderboard import build_leaderboard as rated
    from chatlm_arena.ratings import EloRules
    from chatlm_arena.report import html_page, newest_run_table
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        found = rated(store.votes(judge), EloRules(k=k, initial_rating=start))
        lengths, tables = store.reply_lengths(judge), newest_run_table(store)
    sides = leaderboard_module.measure_side_bias(found.votes.score)
    said = leaderboard_module.describe_findings(
        found, sides, leaderboard_module.measure_length_bias(*lengths)
    )
    _write_file(path, [html_page(found, said, tables)])
    click.echo(escape_controls(f"Wrote {path}."))


def _write_file(path: Path, chunks: list[str]) -> None:
    try:
        write_atomically(path.expanduser(), chunks)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
