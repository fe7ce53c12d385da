"""Whether the ratings can be trusted: drop-k, the stopping rule, and warnings about votes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatlm import one_line
from chatlm_arena.ratings import fit_strengths
from chatlm_arena.records import VoteFacts
from chatlm_arena.statistics.boards import select_votes
from chatlm_arena.statistics.drop_check import DropCheck, check_drops
from chatlm_arena.statistics.stopping import ALPHA, StoppingRule, check_stopping
from chatlm_arena.statistics.voter_checks import VoteWarning, find_bots, find_repeats
from chatlm_arena.votes import Votes, tally_votes

MAX_LISTED = 5
"""Removed votes and open duels that are listed."""

_RESULT = {1.0: "beat", 0.5: "tied with", 0.0: "lost to"}


@dataclass(frozen=True, eq=False)
class Audit:
    """What was checked about some votes."""

    names: tuple[str, ...]
    votes: int
    drops: DropCheck | None
    """None without a single first contestant."""
    stopping: StoppingRule | None
    """None with fewer than two contestants."""
    warnings: tuple[VoteWarning, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the audit as plain values, ready for JSON."""
        return {
            "votes": self.votes,
            "drop": self._drop_dict(),
            "stopping": self._stopping_dict(),
            "warnings": [warning.to_dict() for warning in self.warnings],
        }

    def _drop_dict(self) -> dict[str, Any] | None:
        drops = self.drops
        if drops is None:
            return None
        return {
            "first": self.names[drops.first],
            "count": drops.count,
            "new_first": None if drops.new_first is None else self.names[drops.new_first],
            "exact": drops.is_exact,
            "proven_below": drops.proven_below,
            "votes": [
                {
                    "left": self.names[each.one],
                    "right": self.names[each.other],
                    "score": each.score,
                    "count": each.count,
                }
                for each in drops.dropped
            ],
        }

    def _stopping_dict(self) -> dict[str, Any] | None:
        rule = self.stopping
        if rule is None:
            return None
        return {
            "first": self.names[rule.first],
            "settled": rule.is_settled,
            "alpha": ALPHA,
            "against": [
                {
                    "name": self.names[duel.other],
                    "wins": duel.wins,
                    "losses": duel.losses,
                    "ties": duel.ties,
                    "low": duel.low,
                    "high": duel.high,
                    "settled": duel.settled,
                    "votes_needed": duel.votes_needed,
                }
                for duel in rule.duels
            ],
        }

    def lines(self) -> Iterator[str]:
        """Yield the findings, one sentence or list entry each."""
        yield from self._drop_lines()
        yield ""
        yield from self._stopping_lines()
        yield ""
        if not self.warnings:
            yield "Nothing suspicious about the voters and the prompts."
        for warning in self.warnings:
            yield f"! {warning.text}"

    def _name(self, index: int) -> str:
        return one_line(self.names[index], 40)

    def _drop_lines(self) -> Iterator[str]:
        drops = self.drops
        if drops is None:
            yield "Drop-k: nobody is first alone."
            return
        first = self._name(drops.first)
        if drops.new_first is None or drops.count is None:
            yield f"Drop-k: {first} stays first whatever votes are dropped, as far as was tried."
            return
        share = drops.count / drops.total
        verb = "is" if drops.count == 1 else "are"
        amount = f"{drops.count:,} of {drops.total:,} votes ({share:.1%})"
        if drops.is_exact:
            yield f"Drop-k: {amount} {verb} enough to change first place; fewer are not."
        else:
            yield (
                f"Drop-k: {amount} {verb} enough to change first place; "
                f"fewer than {drops.proven_below:,} are not."
            )
        yield f"  Without them {self._name(drops.new_first)} is first instead of {first}:"
        for each in drops.dropped[:MAX_LISTED]:
            times = f" ({each.count:,} times)" if each.count > 1 else ""
            one, other, score = each.one, each.other, each.score
            if score == 0:
                one, other, score = other, one, 1.0
            yield f"  - {self._name(one)} {_RESULT[score]} {self._name(other)}{times}"
        if len(drops.dropped) > MAX_LISTED:
            rest = sum(each.count for each in drops.dropped[MAX_LISTED:])
            yield f"  - and {rest:,} more"

    def _stopping_lines(self) -> Iterator[str]:
        rule = self.stopping
        if rule is None:
            yield "Stopping: there is nothing to decide between yet."
            return
        first = self._name(rule.first)
        if rule.is_settled:
            yield (
                f"Stopping: you can stop. {first} beats each other contestant; the chance that "
                f"this is wrong is at most {ALPHA:.0%}, however often you looked."
            )
            return
        yield f"Stopping: go on. {first} leads, but that is not settled:"
        for duel in [duel for duel in rule.duels if not duel.settled][:MAX_LISTED]:
            decided = duel.wins + duel.losses
            needed = (
                f"about {duel.votes_needed:,} more decided votes between them"
                if duel.votes_needed
                else "no lead in the votes between them"
            )
            yield (
                f"  - {self._name(duel.other)}: {duel.wins:,} of {decided:,} decided votes won "
                f"({duel.low:.0%} to {duel.high:.0%} at any time); {needed}"
            )


def audit_votes(votes: Votes, facts: Sequence[VoteFacts]) -> Audit:
    """Check votes.

    Args:
        votes: the votes.
        facts: the same votes' voters, texts and times, in the same order.
    """
    used = select_votes(votes, np.arange(len(votes)))
    cells = tally_votes(used)
    order = np.argsort(-fit_strengths(cells), kind="stable").tolist()
    return Audit(
        used.names,
        len(used),
        check_drops(cells),
        check_stopping(cells, order),
        (*find_repeats(facts), *find_bots(votes, facts)),
    )
