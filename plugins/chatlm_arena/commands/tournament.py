"""The commands `chatlm arena run` and `perplexity`: what is asked, shown and printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatlm import UsageError, dump_json, escape_controls, load_config, one_line
from chatlm_arena.commands.options import as_json_option as _json
from chatlm_arena.commands.options import complete_contestant

if TYPE_CHECKING:
    from chatlm_arena.contestants import Contestant
    from chatlm_arena.records import Match
    from chatlm_arena.store.store import ArenaStore
    from chatlm_arena.tournament import Tournament


VERDICT_KEYS = {"l": "left", "r": "right", "t": "tie", "b": "both_bad"}
"""What a person presses for a verdict; s skips, q ends."""


_contestants_option = click.option(
    "--contestants",
    "names",
    metavar="NAME,NAME,…",
    shell_complete=complete_contestant,
    help="Who takes part; all that can play without it.",
)


@click.command()
@click.option(
    "--prompts",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='JSON lines with "turns" or "prompt", and perhaps "reference".',
)
@_contestants_option
@click.option(
    "--judge",
    "judges",
    multiple=True,
    required=True,
    metavar="human|MODEL|panel",
    help="Who compares the answers: you; a model; several, of which the majority decides;"
    " or panel, all models of the contestants.",
)
@click.option("--likert", is_flag=True, help="Have each answer rated too, from -2 to 2.")
@click.option("--most", type=click.IntRange(1), metavar="N", help="Take the first N prompts only.")
@click.option("--max-tokens", type=click.IntRange(1), help="Of a reply, unless a contestant says.")
@click.option("--seed", type=int, default=0, help="Of all that is left to chance. Default: 0")
@_json
def run(
    path: Path,
    names: str | None,
    judges: tuple[str, ...],
    likert: bool,
    most: int | None,
    max_tokens: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Let contestants answer prompts, and compare their answers in pairs.

    Every answer and verdict is stored at once: the same command goes on where it was stopped. A
    model judges in both orders; if its verdict changes with the order, it is a tie.

    Example: chatlm arena run --prompts questions.jsonl --judge smollm2-360m-instruct
    """
    from chatlm import side_chats
    from chatlm_arena import tournament as tournament_module
    from chatlm_arena.store import store as store_module
    from chatlm_arena.tournament import Tournament, TournamentPlan, resolve_judges

    if "human" in judges and len(judges) > 1:
        raise UsageError("You judge alone.", hint="Run it once more with the models as judges.")
    by_models = judges != ("human",)
    asked = tournament_module.read_prompts(path.expanduser(), most)
    with store_module.open_arena_store() as store:
        playing = resolve_contestants(store, names)
        plan = TournamentPlan(asked, playing, max_tokens, seed)
        with _explain_resuming(), side_chats(load_config(), _print_status) as chats:
            tournament = Tournament(store, chats, plan)
            _show_progress("Answers", tournament.answer(), plan.reply_count)
            if by_models:
                models = resolve_judges(judges, playing)
                pairs = len(asked) * len(playing) * (len(playing) - 1) // 2
                _show_progress("Verdicts", tournament.judge(models), pairs * len(models))
                if likert:
                    total = len(asked) * len(playing) * len(models) * 3
                    _show_progress("Ratings", tournament.rate(models), total)
            else:
                _judge_by_hand(tournament, likert)
        told = tournament_result(tournament)
    click.echo(dump_json(told) if as_json else _format_result(told, by_models=by_models))


@click.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--prompt",
    default="Go on.",
    metavar="TEXT",
    help="The message that the text answers. Default: Go on.",
)
@_contestants_option
@_json
def perplexity(path: Path, prompt: str, names: str | None, as_json: bool) -> None:
    """How little each contestant expects the text of a file; low is good.

    Contestants can be compared only where their models cut text into the same tokens.

    Example: chatlm arena perplexity answer.txt --prompt "What is a mutex?"
    """
    from chatlm import side_chats
    from chatlm_arena import metrics
    from chatlm_arena.answers import name_contestant_in_errors
    from chatlm_arena.store import store as store_module

    try:
        text = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    with store_module.open_arena_store() as store:
        playing = resolve_contestants(store, names, minimum=1)
    rows = []
    with side_chats(load_config(), _print_status) as chats:
        for contestant in playing:
            if contestant.setup is not None:
                with name_contestant_in_errors(contestant):
                    found = metrics.measure_perplexity(chats.begin(contestant.setup), prompt, text)
                rows.append(
                    {
                        "name": contestant.name,
                        "perplexity": found.perplexity,
                        "loss": found.loss,
                        "tokens": found.tokens,
                    }
                )
    if as_json:
        click.echo(dump_json(rows))
        return
    for row in rows:
        click.echo(
            escape_controls(f"{row['name']}: {row['perplexity']:.2f} over {row['tokens']} tokens")
        )


def resolve_contestants(
    store: ArenaStore, names: str | None, minimum: int = 2
) -> tuple[Contestant, ...]:
    """Those that take part, in the order in which they were named.

    Raises:
        UsageError: there are not so many, one of them cannot play, or fewer than `minimum` are
            left.
    """
    if names is None:
        found = [c for c in store.contestants() if c.setup is not None]
    else:
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        found = [store.contestant(name) for name in dict.fromkeys(wanted)]
    for contestant in found:
        if contestant.setup is None:
            raise UsageError(
                f"{contestant.name} cannot play: only its votes are known.",
                hint=f"Say what it is: chatlm arena contestants edit {contestant.name} --model …",
            )
    if len(found) < minimum:
        raise UsageError(
            f"It takes {minimum} or more contestants.",
            hint="Add one: chatlm arena contestants add NAME --model …",
        )
    return tuple(found)


def tournament_result(tournament: Tournament) -> dict[str, object]:
    """What came of a tournament, as plain values."""
    from chatlm_arena import report

    verdicts = tournament.counts
    return {
        "run": tournament.plan.name,
        "votes": verdicts.votes,
        "undecided": verdicts.undecided,
        "disagreements": verdicts.disagreements,
        "retries": verdicts.retries,
        "contestants": report.run_table(tournament.store, tournament.run_id, tournament.plan),
    }


def _format_result(result: dict[str, object], *, by_models: bool) -> str:
    lines = [f"Matches with a verdict: {result['votes']}, without: {result['undecided']}."]
    if by_models:
        lines.append(
            f"Verdicts that changed with the order, and so are ties: {result['disagreements']}. "
            f"Times that a judge was asked again: {result['retries']}."
        )
    table = result["contestants"]
    if isinstance(table, list):
        for row in table:
            facts = [f"{name} {value:.2f}" for name, value in row.items() if name != "name"]
            if facts:
                lines.append(f"{row['name']}: {', '.join(facts)}")
    lines.append("See the ratings: chatlm arena leaderboard")
    return escape_controls("\n".join(lines))


@contextmanager
def _explain_resuming() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, click.Abort):
        _print_status("Stopped. What is done is stored; the same command goes on from there.")
        raise


def _show_progress(label: str, steps: Iterator[int], total: int) -> None:
    """Pull all steps, with a bar on a terminal and a line for each tenth elsewhere."""
    if sys.stderr.isatty():
        with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
            for done in steps:
                bar.update(done - bar.pos)
            bar.update(total - bar.pos)
        return
    tenth = -1
    for done in steps:
        if total and done * 10 // total != tenth:
            tenth = done * 10 // total
            _print_status(f"{label} {tenth * 10} %")


def _judge_by_hand(tournament: Tournament, likert: bool) -> None:
    """Show each match without names, and ask for a verdict and perhaps for ratings."""
    from chatlm_arena.records import HUMAN
    from chatlm_arena.votes import Verdict

    if not sys.stdin.isatty():
        raise UsageError(
            "To judge yourself you need a terminal.",
            hint="The answers are stored. Or name a model as the judge.",
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
    """Ask for the ratings of both sides, except those that were given in another match."""
    from chatlm_arena.judging import CRITERIA
    from chatlm_arena.records import HUMAN

    given = tournament.store.ratings(tournament.run_id)
    for side, replies in (("left", match.left_replies), ("right", match.right_replies)):
        for criterion in CRITERIA:
            if (replies[-1].id, HUMAN, criterion) not in given:
                value = click.prompt(f"{side}: {criterion}, -2 to 2", type=click.IntRange(-2, 2))
                tournament.store.add_rating(replies[-1], HUMAN, criterion, value, str(value))


def format_blind_match(match: Match, title: str) -> str:
    """A match as a person judges it in the terminal: without names, ready to be printed."""
    from chatlm_arena.contestants import identifying_words, mask_words

    words = identifying_words((match.left, match.right))
    parts = [f"\n=== {title} ==="]
    for left, right in zip(match.left_replies, match.right_replies, strict=True):
        parts.append(f"\n> {left.prompt}")
        for name, reply in (("LEFT", left), ("RIGHT", right)):
            parts.append(f"\n--- {name}\n{mask_words(reply.text, words)}")
    return escape_controls("\n".join(parts))


def _print_status(text: str) -> None:
    """Say a line, on a terminal in place of a bar, which is drawn again below."""
    over = "\r\x1b[K" if sys.stderr.isatty() else ""
    click.echo(over + one_line(text, 120), err=True)
