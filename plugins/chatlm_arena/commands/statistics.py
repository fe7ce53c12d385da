"""Commands that say how far ratings, judges and rubrics can be trusted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatlm import UsageError, dump_json, escape_controls, load_config
from chatlm.plugin_kit.options import json_option
from chatlm_arena.commands.options import judge_option, rubric_options, weighted_option

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chatlm_arena.store.store import ArenaStore


@click.command()
@judge_option
@json_option
def audit(judge: str, as_json: bool) -> None:
    """Check whether the ratings can be trusted, and whether you can stop voting.

    Drop-k: the fewest votes whose removal changes first place. Stopping: whether the leader is
    settled, by a test that stays valid however often you look. Warnings: repeated prompts, and
    voters that favour a side, always say the same, vote at random or faster than one can read.

    Example: chatlm arena audit --judge human
    """
    from chatlm_arena.statistics.audit import audit_votes
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        found = audit_votes(store.votes(judge), store.vote_facts(judge))
    if as_json:
        click.echo(dump_json(found.to_dict()))
        return
    _print(found.lines() if found.votes else ["No votes yet. Vote: chatlm arena"])


@click.command()
@json_option
def judges(as_json: bool) -> None:
    """Show how far each judge agrees with you, and with itself in both orders.

    κ is Cohen's, with its 95 % interval, on the matches that you have voted on, too.

    Example: chatlm arena judges --json
    """
    from chatlm_arena import summaries, views
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        found = views.calibration(store)
    if as_json:
        alpha = found.reliability
        values = {
            "human_votes": found.human_votes,
            "judges": [row.to_dict() for row in found.rows],
            "reliability": None if alpha is None else dict(vars(alpha)),
        }
        click.echo(dump_json(values))
        return
    _print(summaries.judge_lines(found))


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option("--all", "everything", is_flag=True, help="Also judge matches without your vote.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Judge at most N matches.")
@rubric_options
@weighted_option
@click.option("--seed", type=int, default=0, help="Random seed. Default: 0")
@json_option
def judge(
    models: tuple[str, ...],
    everything: bool,
    limit: int | None,
    rubric: str,
    reasoning: bool,
    weighted: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Let models judge matches that you have voted on, to see whether they agree with you.

    Several models decide together. Every verdict is saved at once: run the same command again to
    go on. With --all they judge the others, too, and leaderboard --corrected uses those votes.

    Example: chatlm arena judge smollm2-360m-instruct --rubric accurate --reasoning
    """
    from chatlm import side_chats
    from chatlm_arena import views
    from chatlm_arena.commands.progress import explain_resuming, print_status, show_progress
    from chatlm_arena.match_judging import MatchJudging
    from chatlm_arena.records import HUMAN
    from chatlm_arena.rubrics import find_rubric
    from chatlm_arena.statistics.judges import judge_weights
    from chatlm_arena.store import store as store_module
    from chatlm_arena.tournament import resolve_judges

    chosen = find_rubric(rubric, reasoning=reasoning)
    by_name = resolve_judges(models, (), chosen)
    with store_module.open_arena_store() as store:
        weights = judge_weights(views.calibration(store), list(by_name)) if weighted else None
        with explain_resuming(), side_chats(load_config(), print_status) as chats:
            judging = MatchJudging(store, chats, chosen, weights, seed)
            voter = judging.voter(by_name)
            matches = store.unjudged_matches(voter, "" if everything else HUMAN)[:limit]
            total = len(matches) * len(by_name)
            show_progress("Verdicts", judging.judge(matches, by_name), total)
    counts = judging.counts
    if as_json:
        click.echo(dump_json({"judge": voter, "matches": len(matches), **vars(counts)}))
        return
    if not matches:
        click.echo("There is nothing left to judge. Show the judges: chatlm arena judges")
        return
    click.echo(
        escape_controls(
            f"{voter}: {counts.votes} votes on {len(matches)} matches, {counts.undecided} "
            f"without a verdict, {counts.disagreements} ties because of the order. "
            "Does it agree with you? chatlm arena judges"
        )
    )


@click.command()
@json_option
def rubrics(as_json: bool) -> None:
    """Show the rubrics that judges can use.

    A text file of your own works as well: chatlm arena judge MODEL --rubric FILE

    Example: chatlm arena rubrics
    """
    from chatlm_arena.rubrics import DEFAULT_RUBRIC, RUBRICS

    if as_json:
        click.echo(dump_json([{"name": name, "text": text} for name, text in RUBRICS.items()]))
        return
    for name, text in RUBRICS.items():
        click.echo(f"{name}{' (default)' if name == DEFAULT_RUBRIC else ''}: {text}")


@click.command()
@json_option
def aspects(as_json: bool) -> None:
    """Show the ratings of single answers by aspect: averages, correlations, reliability.

    The ratings come from `chatlm arena run --likert`. Reliability is Krippendorff's α among the
    judges that rated the same answers.

    Example: chatlm arena aspects
    """
    from chatlm_arena import summaries, views
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        found = views.aspects(store)
    if as_json:
        values = {
            "means": [_finite(vars(mean)) for mean in found.means],
            "correlations": [_finite(vars(each)) for each in found.correlations],
            "reliability": {
                name: None if alpha is None else dict(vars(alpha))
                for name, alpha in found.reliability.items()
            },
        }
        click.echo(dump_json(values))
        return
    _print(summaries.aspect_lines(found))


@click.command()
@click.option(
    "--to",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the plot to this file, .png or .svg.",
)
@json_option
def speed(path: Path | None, as_json: bool) -> None:
    """Show quality against time: which contestants no other one beats in both.

    Quality is the rating, time the median of a reply's seconds on this machine.

    Example: chatlm arena speed --to speed.png
    """
    from chatlm_arena import summaries, views
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        rows = views.speeds(store)
    if path is not None:
        from chatlm_arena.speed_plot import write_speed_plot

        write_speed_plot(rows, path.expanduser())
    if as_json:
        click.echo(dump_json([row.to_dict() for row in rows]))
        return
    _print(summaries.speed_lines(rows, shutil.get_terminal_size().columns))
    if path is not None:
        click.echo(escape_controls(f"Wrote {path}."))


@click.command()
@click.option("--number", type=click.IntRange(2, 50), metavar="N", help="Number of topics.")
@click.option("--tags", is_flag=True, help="Use the tags of the tournaments' prompts instead.")
@judge_option
@json_option
def topics(number: int | None, tags: bool, judge: str, as_json: bool) -> None:
    """Show a board for each topic.

    Topics are clusters of the first messages by their embeddings, named by their words; the
    number with the clearest clusters is chosen.

    Example: chatlm arena topics --number 4
    """
    from chatlm_arena import summaries
    from chatlm_arena.statistics.boards import build_topic_boards
    from chatlm_arena.statistics.topics import topics_by_tag
    from chatlm_arena.store import store as store_module
    from chatlm_arena.tournament import tags_by_match

    if tags and number is not None:
        raise UsageError("--number does not go with --tags.", hint="Leave out one of them.")
    with store_module.open_arena_store() as store:
        votes, facts = store.votes(judge), store.vote_facts(judge)
        groups = topics_by_tag(tags_by_match(store)) if tags else _clusters(store, number)
    boards = build_topic_boards(votes, facts, groups)
    if as_json:
        click.echo(
            dump_json(
                [
                    {"topic": topic, "board": None if board is None else board.to_dict()}
                    for topic, board in boards.items()
                ]
            )
        )
        return
    _print(summaries.topic_lines(boards))


def _clusters(store: ArenaStore, number: int | None) -> dict[str, list[int]]:
    from chatlm import TextEmbedder, service
    from chatlm.plugin_kit.progress import progress_bar
    from chatlm_arena.statistics.topics import topics_by_cluster

    prompts = store.first_prompts()
    texts = list(dict.fromkeys(prompts.values()))
    with service("embedder", TextEmbedder) as embedder, progress_bar() as progress:
        vectors = embedder.embed(
            texts, lambda done, total: progress.update(done, total, "reading messages")
        )
    return topics_by_cluster(prompts, vectors, number)


def _finite(values: dict[str, object]) -> dict[str, object]:
    """Replace nan, which JSON does not have, by None."""
    return {name: None if value != value else value for name, value in values.items()}


def _print(lines: Iterable[str]) -> None:
    click.echo(escape_controls("\n".join(lines)).rstrip())
