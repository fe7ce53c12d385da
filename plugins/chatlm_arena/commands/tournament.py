"""The commands `chatlm arena run` and `chatlm arena perplexity`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatlm import UsageError, check_regular_file, dump_json, escape_controls, load_config
from chatlm.plugin_kit.options import json_option
from chatlm_arena.commands.options import complete_contestant, rubric_options, weighted_option
from chatlm_arena.commands.progress import explain_resuming, print_status, show_progress
from chatlm_arena.commands.ranking import check_can_rank, rank_by_hand

if TYPE_CHECKING:
    from chatlm_arena.contestants import Contestant
    from chatlm_arena.records import Match
    from chatlm_arena.store.store import ArenaStore
    from chatlm_arena.tournament import Tournament


VERDICT_KEYS = {"l": "left", "r": "right", "t": "tie", "b": "both_bad"}
"""Keys for the verdicts of a human judge; s skips a match, q quits."""

ROUNDING_NOTE = (
    "Rounded weights change a perplexity by 1 to 2 %, more on short texts. Without rounding: "
    "chatlm config set weights float32"
)
"""Printed below perplexities that were not measured in float32."""

_contestants_option = click.option(
    "--contestants",
    "names",
    metavar="NAME,NAME,…",
    shell_complete=complete_contestant,
    help="The contestants that play. Default: all that have a set-up",
)


@click.command()
@click.option(
    "--prompts",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='JSON lines with "turns" or "prompt", and optionally "reference".',
)
@_contestants_option
@click.option(
    "--judge",
    "judges",
    multiple=True,
    required=True,
    metavar="human|MODEL|panel",
    help="Who compares the answers: human; a model; several models, which decide by majority;"
    " or panel, all models of the contestants.",
)
@click.option("--likert", is_flag=True, help="Also rate each answer from -2 to 2.")
@click.option(
    "--rank",
    is_flag=True,
    help="With --judge human: put all answers to a prompt in order at once, instead of in pairs.",
)
@rubric_options
@weighted_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use only the first N prompts.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help="Maximum tokens of a reply, unless the contestant sets it.",
)
@click.option("--seed", type=int, default=0, help="Random seed. Default: 0")
@json_option
def run(
    path: Path,
    names: str | None,
    judges: tuple[str, ...],
    likert: bool,
    rank: bool,
    rubric: str,
    reasoning: bool,
    weighted: bool,
    limit: int | None,
    max_tokens: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Let contestants answer prompts, and compare their answers in pairs.

    Every answer and verdict is saved at once: run the same command again to resume. A model judges
    both orders of the answers; if its verdict depends on the order, the match is a tie. --rubric
    says what it looks for, --reasoning lets it give its reasons first, and --weighted weighs
    several judges by their agreement with you (chatlm arena judges).

    Example: chatlm arena run --prompts questions.jsonl --judge smollm2-360m-instruct
    """
    from chatlm import side_chats
    from chatlm_arena import tournament as tournament_module
    from chatlm_arena import views
    from chatlm_arena.rubrics import find_rubric
    from chatlm_arena.statistics.judges import judge_weights
    from chatlm_arena.store import store as store_module
    from chatlm_arena.tournament import Tournament, TournamentPlan, resolve_judges

    if "human" in judges and len(judges) > 1:
        raise UsageError(
            "human cannot be combined with other judges.",
            hint="Run the command again with the models as judges.",
        )
    by_models = judges != ("human",)
    if rank and by_models:
        raise UsageError("--rank is for --judge human.", hint="Models judge in pairs.")
    chosen = find_rubric(rubric, reasoning=reasoning)
    prompts = tournament_module.read_prompts(path.expanduser(), limit)
    with store_module.open_arena_store() as store:
        contestants = resolve_contestants(store, names)
        if rank:
            check_can_rank(contestants)
        plan = TournamentPlan(prompts, contestants, max_tokens, seed)
        models = resolve_judges(judges, contestants, chosen) if by_models else {}
        weights = judge_weights(views.calibration(store), list(models)) if weighted else None
        with explain_resuming(), side_chats(load_config(), print_status) as chats:
            tournament = Tournament(store, chats, plan)
            show_progress("Answers", tournament.answer(), plan.reply_count)
            if by_models:
                pairs = len(prompts) * len(contestants) * (len(contestants) - 1) // 2
                show_progress(
                    "Verdicts", tournament.judge(models, chosen, weights), pairs * len(models)
                )
                if likert:
                    total = len(prompts) * len(contestants) * len(models) * 3
                    show_progress("Ratings", tournament.rate(models), total)
            elif rank:
                rank_by_hand(tournament)
            else:
                _judge_by_hand(tournament, likert)
        result = tournament_result(tournament)
    click.echo(dump_json(result) if as_json else _format_result(result, by_models=by_models))


@click.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--prompt",
    default="Go on.",
    metavar="TEXT",
    help="The message that the text answers. Default: Go on.",
)
@_contestants_option
@json_option
def perplexity(path: Path, prompt: str, names: str | None, as_json: bool) -> None:
    """Measure each contestant's perplexity on the text of a file; lower is better.

    Only contestants whose models have the same tokenizer can be compared. Weights that are rounded
    to 4, 8 or 16 bits change the value by 1 to 2 %; with the setting weights = float32 it is exact.

    Example: chatlm arena perplexity answer.txt --prompt "What is a mutex?"
    """
    from chatlm import side_chats
    from chatlm_arena import metrics
    from chatlm_arena.answers import name_contestant_in_errors
    from chatlm_arena.store import store as store_module

    try:
        check_regular_file(path.expanduser())
        text = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    with store_module.open_arena_store() as store:
        contestants = resolve_contestants(store, names, minimum=1)
    rows, exact = [], True
    with side_chats(load_config(), print_status) as chats:
        for contestant in contestants:
            if contestant.setup is not None:
                with name_contestant_in_errors(contestant):
                    chat = chats.begin(contestant.setup)
                    measured = metrics.measure_perplexity(chat, prompt, text)
                exact = exact and measured.is_exact
                rows.append(
                    {
                        "name": contestant.name,
                        "perplexity": measured.perplexity,
                        "loss": measured.loss,
                        "tokens": measured.tokens,
                        "weights": measured.weights,
                    }
                )
    if as_json:
        click.echo(dump_json(rows))
        return
    for row in rows:
        measured_with = f"{row['tokens']} tokens, {row['weights']} weights"
        click.echo(escape_controls(f"{row['name']}: {row['perplexity']:.2f} over {measured_with}"))
    if not exact:
        click.echo(ROUNDING_NOTE)


def resolve_contestants(
    store: ArenaStore, names: str | None, minimum: int = 2
) -> tuple[Contestant, ...]:
    """Return the named contestants, or all that can play.

    Args:
        store: the arena's database.
        names: comma-separated names; None for all that have a set-up.
        minimum: the number of contestants that are needed.

    Raises:
        UsageError: one does not exist or cannot play, or there are fewer than `minimum`.
    """
    if names is None:
        contestants = [c for c in store.contestants() if c.setup is not None]
    else:
        stripped = [name.strip() for name in names.split(",") if name.strip()]
        contestants = [store.contestant(name) for name in dict.fromkeys(stripped)]
    for contestant in contestants:
        if contestant.setup is None:
            raise UsageError(
                f"{contestant.name} cannot play: it has no set-up.",
                hint=f"Set it: chatlm arena contestants edit {contestant.name} --model …",
            )
    if len(contestants) < minimum:
        raise UsageError(
            f"At least {minimum} contestants are needed.",
            hint="Add one: chatlm arena contestants add NAME --model …",
        )
    return tuple(contestants)


def tournament_result(tournament: Tournament) -> dict[str, object]:
    """Return the result of a tournament, ready for JSON."""
    from chatlm_arena import report

    counts = tournament.counts
    return {
        "run": tournament.plan.name,
        "votes": counts.votes,
        "undecided": counts.undecided,
        "disagreements": counts.disagreements,
        "retries": counts.retries,
        "contestants": report.run_table(tournament.store, tournament.run_id, tournament.plan),
    }


def _format_result(result: dict[str, object], *, by_models: bool) -> str:
    lines = [f"Matches with a verdict: {result['votes']}, without: {result['undecided']}."]
    if by_models:
        lines.append(
            f"Ties because the verdict depended on the order: {result['disagreements']}. "
            f"Judge retries: {result['retries']}."
        )
    table = result["contestants"]
    if isinstance(table, list):
        for row in table:
            facts = [f"{name} {value:.2f}" for name, value in row.items() if name != "name"]
            if facts:
                lines.append(f"{row['name']}: {', '.join(facts)}")
    lines.append("Show the ratings: chatlm arena leaderboard")
    return escape_controls("\n".join(lines))


def _judge_by_hand(tournament: Tournament, likert: bool) -> None:
    """Show each match without names, and ask for a verdict and perhaps for ratings."""
    from chatlm_arena.records import HUMAN
    from chatlm_arena.votes import Verdict

    if not sys.stdin.isatty():
        raise UsageError(
            "To judge yourself you need a terminal.",
            hint="The answers are stored. Or use a model as the judge.",
        )
    store = tournament.store
    todo = [match for match in tournament.matches() if not store.has_vote(match, HUMAN)]
    for number, match in enumerate(todo, 1):
        click.echo(format_blind_match(match, f"Match {number} of {len(todo)}"))
        key = ""
        while key not in (*VERDICT_KEYS, "s", "q"):
            key = click.prompt("l left, r right, t tie, b both bad, s skip, q quit", default="s")
        if key == "q":
            break
        if likert:
            _rate_by_hand(tournament, match)
        if key in VERDICT_KEYS:
            store.add_vote(match, Verdict(VERDICT_KEYS[key]))
            tournament.counts.votes += 1


def _rate_by_hand(tournament: Tournament, match: Match) -> None:
    """Ask for the ratings of both sides, except those given in another match."""
    from chatlm_arena.judging import CRITERIA
    from chatlm_arena.records import HUMAN

    ratings = tournament.store.ratings(tournament.run_id)
    for side, replies in (("left", match.left_replies), ("right", match.right_replies)):
        for criterion in CRITERIA:
            if (replies[-1].id, HUMAN, criterion) not in ratings:
                value = click.prompt(f"{side}: {criterion}, -2 to 2", type=click.IntRange(-2, 2))
                tournament.store.add_rating(replies[-1], HUMAN, criterion, value, str(value))


def format_blind_match(match: Match, title: str) -> str:
    """Format a match for a human judge: without names, control characters escaped."""
    from chatlm_arena.contestants import identifying_words, mask_words

    words = identifying_words((match.left, match.right))
    parts = [f"\n=== {title} ==="]
    for left, right in zip(match.left_replies, match.right_replies, strict=True):
        parts.append(f"\n> {left.prompt}")
        for name, reply in (("LEFT", left), ("RIGHT", right)):
            parts.append(f"\n--- {name}\n{mask_words(reply.display_text, words)}")
    return escape_controls("\n".join(parts))
