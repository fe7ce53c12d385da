"""Prompts, answers, judging of a whole run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from chatlm import Sampling, Setup, SideChats, StopReason, UsageError, one_line
from chatlm_arena import judging
from chatlm_arena.answers import AnswerRequest, Seat, generate_answers, run_jobs
from chatlm_arena.contestants import Contestant
from chatlm_arena.records import Match, MatchReply
from chatlm_arena.store.rows import replace_surrogates
from chatlm_arena.store.store import ArenaStore

FORMAT_HELP = (
    'A row has "turns", a list of messages, or "prompt", one of them; and perhaps "reference", the '
    "answer that is wanted, or a list with one a turn."
)


@dataclass(frozen=True)
class TournamentPrompt:
    """What a contestant is asked."""

    turns: tuple[str, ...]
    """One message after the other, each answered."""
    references: tuple[str, ...] = ()
    """A good answer for each turn, as far as there are any; empty texts say nothing."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "turns": list(self.turns),
            "references": list(self.references),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TournamentPrompt:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            turns=tuple(values["turns"]),
            references=tuple(values["references"]),
        )


def read_prompts(path: Path, limit: int | None = None) -> tuple[TournamentPrompt, ...]:
    """All prompts of a file, in their order.

    Args:
        path: JSON lines.
        limit: take only so many, the first; None takes all.

    Raises:
        UsageError: it cannot be read, has none, or a line is wrong, which is named.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # JSON may hold other line ends
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}).", hint=FORMAT_HELP) from None
    found = tuple(
        _parse_prompt(line, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    if not found:
        raise UsageError(f"{path} has no prompts.", hint=FORMAT_HELP)
    return found[:limit]


def _parse_prompt(line: str, location: str) -> TournamentPrompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{location}: not JSON: {error}", hint=FORMAT_HELP) from None
    if not isinstance(row, dict):
        _reject(location, "is not a JSON object")
    turns = row.get("turns", [row.get("prompt")])
    if not isinstance(turns, list) or not turns or not all(map(_is_nonblank_text, turns)):
        _reject(location, "has no message")
    references = row.get("reference", [])
    references = references if isinstance(references, list) else [references]
    if not all(isinstance(text, str) for text in references):
        _reject(location, f"has the reference {one_line(repr(references), 60)}")
    return TournamentPrompt(
        tuple(map(replace_surrogates, turns)), tuple(map(replace_surrogates, references))
    )


def _is_nonblank_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _reject(location: str, problem: str) -> NoReturn:
    raise UsageError(f"{location}: it {problem}.", hint=FORMAT_HELP)


PANEL = "panel"
"""The judge of votes that several models decided together."""


@dataclass(frozen=True)
class TournamentPlan:
    """All that decides what a tournament does; the same plan goes on where it was stopped."""

    prompts: tuple[TournamentPrompt, ...]
    contestants: tuple[Contestant, ...]
    max_tokens: int | None = None
    """Of a reply, where a contestant says nothing."""
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "prompts": [prompt.to_dict() for prompt in self.prompts],
            "contestants": [[c.id, c.name] for c in self.contestants],
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TournamentPlan:
        """Read back what `to_dict` made; the contestants are without their set-ups."""
        return cls(
            tuple(map(TournamentPrompt.from_dict, values["prompts"])),
            tuple(Contestant(number, name) for number, name in values["contestants"]),
            values["max_tokens"],
            values["seed"],
        )

    @property
    def name(self) -> str:
        """Tells plans apart."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:10]

    @property
    def reply_count(self) -> int:
        """How many are made in all."""
        return len(self.contestants) * sum(len(prompt.turns) for prompt in self.prompts)


@dataclass
class JudgingCounts:
    """What came of the judging."""

    votes: int = 0
    """Matches with a verdict, those from before included."""
    undecided: int = 0
    """Matches for which a judge gave none."""
    disagreements: int = 0
    """Verdicts that changed with the order of the answers, and so were ties."""
    retries: int = 0
    """Times a judge had to be asked again."""


@dataclass
class Tournament:
    """What is done is stored at once, and not done again.

    Args:
        store: keeps everything.
        chats: in which contestants and judges answer.
        plan: what to do.
    """

    store: ArenaStore
    chats: SideChats
    plan: TournamentPlan
    counts: JudgingCounts = field(default_factory=JudgingCounts)

    def __post_init__(self) -> None:
        self.run_id = self.store.open_run(self.plan.name, self.plan.to_dict())

    def answer(self) -> Generator[int, None, None]:
        """Let all contestants answer all prompts, turn by turn; yields how many are done."""
        done = self.store.run_replies(self.run_id)
        yield len(done)
        for turn in range(max(len(prompt.turns) for prompt in self.plan.prompts)):
            todo = [
                (item, contestant)
                for contestant in sorted(self.plan.contestants, key=_model_of)
                for item, prompt in enumerate(self.plan.prompts)
                if turn < len(prompt.turns) and (item, contestant.id, turn) not in done
            ]
            orders = (self._answer_request(*each, turn, done) for each in todo)
            with closing(generate_answers(orders)) as made:
                for at, reply in made:
                    item, contestant = todo[at]
                    kept = self.store.add_run_reply(self.run_id, item, reply)
                    done[item, contestant.id, turn] = kept
                    yield len(done)

    def matches(self) -> list[Match]:
        """All pairs of all prompts with their replies, seated by chance; stored if they are new."""
        done = self.store.run_replies(self.run_id)
        found = []
        for item, prompt in enumerate(self.plan.prompts):
            for one, other in combinations(self.plan.contestants, 2):
                turned = self._stable_random(item, one.id, other.id) % 2
                left, right = (other, one) if turned else (one, other)
                match = self.store.add_match(left, right, run_id=self.run_id, item=item)
                sides = [
                    tuple(done[item, contestant.id, turn] for turn in range(len(prompt.turns)))
                    for contestant in (left, right)
                ]
                self.store.seat_replies(match, sides[0], sides[1])
                found.append(Match(match.id, left, right, sides[0], sides[1]))
        return found

    def judge(self, judges: Mapping[str, Setup]) -> Iterator[int]:
        """Let models judge all matches; several decide by majority.

        Args:
            judges: set-ups by the name that their votes have.

        Yields:
            how many judgements are done; each judge gives one of each match.
        """
        matches = self.matches()
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
                    chat, match.left_replies, match.right_replies, self.plan.seed
                )
                for match in todo
            )
            with closing(run_jobs(chat.engine, jobs)) as judged:
                for at, said in judged:
                    self.store.add_judgements(todo[at], judge, said)
                    self._record_vote(todo[at], judges, counted)
                    done += 1
                    yield done
        for match in matches:
            self._record_vote(match, judges, counted)

    def rate(self, judges: Mapping[str, Setup]) -> Iterator[int]:
        """Let models rate every contestant's answers to every prompt; yields how many are done."""
        done = self.store.run_replies(self.run_id)
        marked = self.store.ratings(self.run_id)
        answers = [
            [done[item, contestant.id, at] for at in range(len(prompt.turns))]
            for item, prompt in enumerate(self.plan.prompts)
            for contestant in self.plan.contestants
        ]
        count = 0
        for judge, setup in judges.items():
            todo = [
                (replies, criterion)
                for replies in answers
                for criterion in judging.CRITERIA
                if (replies[-1].id, judge, criterion) not in marked
            ]
            count += len(answers) * len(judging.CRITERIA) - len(todo)
            yield count
            if not todo:
                continue
            chat = self.chats.begin(setup)
            jobs = (judging.rate_answers(chat, *wanted, self.plan.seed) for wanted in todo)
            with closing(run_jobs(chat.engine, jobs)) as rated:
                for at, (value, said) in rated:
                    replies, criterion = todo[at]
                    self.store.add_rating(replies[-1], judge, criterion, value, said)
                    count += 1
                    yield count

    def _record_vote(self, match: Match, judges: Mapping[str, Setup], counted: set[int]) -> None:
        """Store the verdict on a match once all judges have judged it, and count it once."""
        said = [self.store.judgements(match, judge) for judge in judges]
        if match.id in counted or not all(said):
            return
        counted.add(match.id)
        name = next(iter(judges)) if len(judges) == 1 else PANEL
        if self.store.has_vote(match, name):
            self.counts.votes += 1
            return
        verdicts = [judging.combine_orders(each) for each in said]
        for each, verdict in zip(said, verdicts, strict=True):
            self.counts.retries += sum(one.attempt > 1 for one in each)
            found = {one.verdict for one in each if one.verdict is not None}
            self.counts.disagreements += verdict is not None and len(found) > 1
        decided = judging.majority_verdict(verdicts)
        if decided is None:
            self.counts.undecided += 1
            return
        with suppress(UsageError):  # another process at this run voted in the meantime
            self.store.add_vote(match, decided, name)
        self.counts.votes += 1

    def _answer_request(
        self,
        item: int,
        contestant: Contestant,
        turn: int,
        done: Mapping[tuple[int, int, int], MatchReply],
    ) -> AnswerRequest:
        """A chat in which the turns before were said, and the next message."""
        chat = self.chats.begin(with_max_tokens(contestant.setup or Setup(), self.plan.max_tokens))
        for before in range(turn):
            said = done[item, contestant.id, before]
            if said.stop_reason is not StopReason.ERROR and said.text.strip():
                chat.add(said.prompt, said.text)
        text = self.plan.prompts[item].turns[turn]
        return AnswerRequest(Seat(contestant, chat), text, turn, self._stable_random(item, turn))

    def _stable_random(self, *key: int) -> int:
        """A random number that is always the same for the plan and what it is for."""
        return int(np.random.default_rng([self.plan.seed, *key]).integers(2**31))


def _model_of(contestant: Contestant) -> str:
    return contestant.setup.model if contestant.setup else ""


def with_max_tokens(setup: Setup, max_tokens: int | None) -> Setup:
    """The set-up with a longest reply where it says nothing."""
    return dataclasses.replace(
        setup, sampling=setup.sampling.with_fallback(Sampling(max_tokens=max_tokens))
    )


def resolve_judges(names: Sequence[str], contestants: Sequence[Contestant]) -> dict[str, Setup]:
    """Judges by name: models, or with `panel` every different model of the contestants."""
    models = [name for name in names if name != PANEL]
    if PANEL in names:
        models += [c.setup.model for c in contestants if c.setup is not None]
    return {model or "model": Setup(model=model) for model in dict.fromkeys(models)}
