"""Ranking all answers to a prompt at once, in the shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from chatlm import UsageError, escape_controls
from chatlm_arena.contestants import Contestant, identifying_words, mask_words
from chatlm_arena.ranking import MAX_RANKED, parse_order
from chatlm_arena.records import MatchReply

if TYPE_CHECKING:
    from chatlm_arena.tournament import Tournament

RankedAnswers = Sequence[tuple[Contestant, Sequence[MatchReply]]]


def check_can_rank(contestants: Sequence[Contestant]) -> None:
    """Check that the contestants can be ranked at once, before they answer.

    Raises:
        UsageError: they are too many.
    """
    if len(contestants) > MAX_RANKED:
        raise UsageError(
            f"{len(contestants)} answers are too many to rank at once; {MAX_RANKED} are possible.",
            hint="Choose some: --contestants NAME,NAME,…",
        )


def rank_by_hand(tournament: Tournament) -> None:
    """Show all answers to each prompt without names, and ask for their order."""
    if not sys.stdin.isatty():
        raise UsageError(
            "To rank yourself you need a terminal.",
            hint="The answers are stored. Or use a model as the judge.",
        )
    store = tournament.store
    todo = tournament.unranked()
    for number, (item, answers) in enumerate(todo, 1):
        click.echo(format_blind_answers(answers, f"Prompt {number} of {len(todo)}"))
        places = _ask_order(len(answers))
        if places is None:
            continue
        if not places:
            break
        tournament.counts.votes += store.add_ranking(
            answers, places, run_id=tournament.run_id, item=item
        )


def _ask_order(count: int) -> list[int] | None:
    """Return the places; None to skip the prompt, empty to quit."""
    example = ">".join(map(str, range(count, 0, -1)))
    while True:
        text = click.prompt(f"The order, such as {example}; = for equals, s skip, q quit")
        if text.strip() in ("s", "q"):
            return None if text.strip() == "s" else []
        try:
            return parse_order(text, count)
        except UsageError as error:
            click.echo(str(error), err=True)


def format_blind_answers(answers: RankedAnswers, title: str) -> str:
    """Format all answers to a prompt without names, control characters escaped."""
    words = identifying_words([contestant for contestant, _ in answers])
    parts = [f"\n=== {title} ==="]
    turns = max(len(replies) for _, replies in answers)
    for turn in range(turns):
        parts.append(f"\n> {answers[0][1][turn].prompt}")
        for number, (_, replies) in enumerate(answers, 1):
            parts.append(f"\n--- {number}\n{mask_words(replies[turn].display_text, words)}")
    return escape_controls("\n".join(parts))
