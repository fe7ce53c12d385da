"""Let models judge matches: each in both orders, several by majority or weighted by agreement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

from chatlm import Setup, SideChats, UsageError
from chatlm_arena import judging
from chatlm_arena.answers import run_jobs
from chatlm_arena.records import Match
from chatlm_arena.rubrics import Rubric
from chatlm_arena.store.store import ArenaStore

PANEL = "panel"
"""The judge of votes decided by a majority of several models."""

WEIGHTED_PANEL = "weighted panel"
"""The judge of votes decided by several models, weighted by their agreement with the user."""


@dataclass
class JudgingCounts:
    """Counts of the judging."""

    votes: int = 0
    """Matches with a verdict, including those from earlier runs."""
    undecided: int = 0
    """Matches without a verdict."""
    disagreements: int = 0
    """Verdicts that depended on the order of the answers, and so became ties."""
    retries: int = 0
    """Repeated attempts at a verdict."""


@dataclass
class MatchJudging:
    """Judges matches, and saves every verdict at once.

    Args:
        store: the arena's database.
        chats: creates the chats in which the judges answer.
        rubric: what the judges look for.
        weights: weight of each judge's verdict by its name; None for a plain majority.
        seed: seed of the judges' first attempts.
    """

    store: ArenaStore
    chats: SideChats
    rubric: Rubric = field(default_factory=Rubric)
    weights: Mapping[str, float] | None = None
    seed: int = 0
    counts: JudgingCounts = field(default_factory=JudgingCounts)

    def judge(self, matches: Sequence[Match], judges: Mapping[str, Setup]) -> Iterator[int]:
        """Let models judge matches.

        Args:
            matches: matches with replies.
            judges: set-ups by judge name.

        Yields:
            The number of judgements done; each judge gives one per match.
        """
        counted: set[int] = set()
        done = 0
        for judge, setup in judges.items():
            todo = [match for match in matches if not self.store.judgements(match, judge)]
            done += len(matches) - len(todo)
            yield done
            if not todo:
                continue
            chat = self.chats.begin(setup)
            jobs = (
                judging.compare_answers(
                    chat, match.left_replies, match.right_replies, self.seed, self.rubric
                )
                for match in todo
            )
            with closing(run_jobs(chat.engine, jobs)) as judged:
                for index, judgements in judged:
                    self.store.add_judgements(todo[index], judge, judgements)
                    self._record_vote(todo[index], judges, counted)
                    done += 1
                    yield done
        for match in matches:
            self._record_vote(match, judges, counted)

    def voter(self, judges: Mapping[str, Setup]) -> str:
        """Return the name under which the votes of these judges are saved."""
        if len(judges) == 1:
            return next(iter(judges))
        return self.rubric.judge_name(PANEL if self.weights is None else WEIGHTED_PANEL)

    def _record_vote(self, match: Match, judges: Mapping[str, Setup], counted: set[int]) -> None:
        """Save the verdict on a match once all judges have judged it, and count it once."""
        by_judge = [self.store.judgements(match, judge) for judge in judges]
        if match.id in counted or not all(by_judge):
            return
        counted.add(match.id)
        name = self.voter(judges)
        if self.store.has_vote(match, name):
            self.counts.votes += 1
            return
        verdicts = [judging.combine_orders(judgements) for judgements in by_judge]
        for judgements, verdict in zip(by_judge, verdicts, strict=True):
            self.counts.retries += sum(one.attempt > 1 for one in judgements)
            distinct = {one.verdict for one in judgements if one.verdict is not None}
            self.counts.disagreements += verdict is not None and len(distinct) > 1
        weights = None if self.weights is None else [self.weights[judge] for judge in judges]
        majority = judging.majority_verdict(verdicts, weights)
        if majority is None:
            self.counts.undecided += 1
            return
        with suppress(UsageError):  # another process voted in the meantime
            self.store.add_vote(match, majority, name)
        self.counts.votes += 1
