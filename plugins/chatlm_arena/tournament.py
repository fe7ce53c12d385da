"""Tournaments: all contestants answer all prompts, and judges compare or rate the answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from chatlm import Sampling, Setup, SideChats, UsageError, check_regular_file, one_line
from chatlm_arena import judging
from chatlm_arena.answers import AnswerRequest, Seat, generate_answers, run_jobs
from chatlm_arena.contestants import Contestant
from chatlm_arena.match_judging import PANEL, JudgingCounts, MatchJudging
from chatlm_arena.records import HUMAN, Match, MatchReply
from chatlm_arena.rubrics import Rubric
from chatlm_arena.store.rows import replace_surrogates
from chatlm_arena.store.store import ArenaStore

FORMAT_HELP = (
    'A row has "turns", a list of messages, or "prompt", a single one; and optionally "reference", '
    'the expected answer, or a list with one per turn, and "tags", words for its topics.'
)

MAX_TAG_CHARACTERS = 40
"""A longer tag is refused."""


@dataclass(frozen=True)
class TournamentPrompt:
    """One or more user messages that every contestant answers."""

    turns: tuple[str, ...]
    """The user messages, in order."""
    references: tuple[str, ...] = ()
    """Expected answers by turn; may be shorter than `turns`, and empty texts are ignored."""
    tags: tuple[str, ...] = ()
    """What the prompt is about, for boards per topic."""

    def to_dict(self) -> dict[str, Any]:
        """Return the prompt as plain values, ready for JSON."""
        values: dict[str, Any] = {
            "turns": list(self.turns),
            "references": list(self.references),
        }
        if self.tags:  # absent otherwise, so that tournaments of earlier versions are found again
            values["tags"] = list(self.tags)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TournamentPrompt:
        """Create a prompt from what `to_dict` returns.

        Raises:
            KeyError, TypeError: the values are invalid.
        """
        return cls(
            turns=tuple(values["turns"]),
            references=tuple(values["references"]),
            tags=tuple(values.get("tags", ())),
        )


def read_prompts(path: Path, limit: int | None = None) -> tuple[TournamentPrompt, ...]:
    """Read the prompts of a file.

    Args:
        path: a file of JSON lines.
        limit: maximum number of prompts; None for all.

    Raises:
        UsageError: the file cannot be read or has no prompts, or a line, which is named,
            is invalid.
    """
    try:
        check_regular_file(path)
        lines = path.read_text(encoding="utf-8-sig").split(
            "\n"
        )  # unlike splitlines(), which splits inside JSON strings
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}).", hint=FORMAT_HELP) from None
    prompts = tuple(
        _parse_prompt(line, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    if not prompts:
        raise UsageError(f"{path} has no prompts.", hint=FORMAT_HELP)
    return prompts[:limit]


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
    if row.get("images"):
        _reject(location, "has images, which only matches that you judge yourself have: /arena")
    references = row.get("reference", [])
    references = references if isinstance(references, list) else [references]
    if not all(isinstance(text, str) for text in references):
        _reject(location, f"has the reference {one_line(repr(references), 60)}")
    tags = row.get("tags", [])
    tags = tags if isinstance(tags, list) else [tags]
    if not all(_is_nonblank_text(tag) and tag == one_line(tag, MAX_TAG_CHARACTERS) for tag in tags):
        _reject(location, f"has the tags {one_line(repr(tags), 60)}")
    return TournamentPrompt(
        tuple(map(replace_surrogates, turns)),
        tuple(map(replace_surrogates, references)),
        tuple(dict.fromkeys(map(replace_surrogates, tags))),
    )


def _is_nonblank_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _reject(location: str, problem: str) -> NoReturn:
    raise UsageError(f"{location}: it {problem}.", hint=FORMAT_HELP)


@dataclass(frozen=True)
class TournamentPlan:
    """Everything that determines a tournament; the same plan resumes the same tournament."""

    prompts: tuple[TournamentPrompt, ...]
    contestants: tuple[Contestant, ...]
    max_tokens: int | None = None
    """Maximum tokens of a reply, unless the contestant sets it."""
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, ready for JSON."""
        return {
            "prompts": [prompt.to_dict() for prompt in self.prompts],
            "contestants": [[c.id, c.name] for c in self.contestants],
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TournamentPlan:
        """Create a plan from what `to_dict` returns; its contestants have no set-ups."""
        return cls(
            tuple(map(TournamentPrompt.from_dict, values["prompts"])),
            tuple(Contestant(number, name) for number, name in values["contestants"]),
            values["max_tokens"],
            values["seed"],
        )

    @property
    def name(self) -> str:
        """A hash that identifies the plan."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:10]

    @property
    def reply_count(self) -> int:
        """Number of replies of the whole tournament."""
        return len(self.contestants) * sum(len(prompt.turns) for prompt in self.prompts)


@dataclass
class Tournament:
    """A tournament, which saves every step at once and can be resumed.

    Args:
        store: the arena's database.
        chats: creates the chats in which contestants and judges answer.
        plan: prompts and contestants.
    """

    store: ArenaStore
    chats: SideChats
    plan: TournamentPlan
    counts: JudgingCounts = field(default_factory=JudgingCounts)

    def __post_init__(self) -> None:
        self.run_id = self.store.open_run(self.plan.name, self.plan.to_dict())

    def answer(self) -> Generator[int, None, None]:
        """Let all contestants answer all prompts, and yield the number of replies done."""
        done = self.store.run_replies(self.run_id)
        yield len(done)
        for turn in range(max(len(prompt.turns) for prompt in self.plan.prompts)):
            todo = [
                (item, contestant)
                for contestant in sorted(self.plan.contestants, key=_model_of)
                for item, prompt in enumerate(self.plan.prompts)
                if turn < len(prompt.turns) and (item, contestant.id, turn) not in done
            ]
            requests = (self._answer_request(*pair, turn, done) for pair in todo)
            with closing(generate_answers(requests)) as replies:
                for index, reply in replies:
                    item, contestant = todo[index]
                    saved = self.store.add_run_reply(self.run_id, item, reply)
                    done[item, contestant.id, turn] = saved
                    yield len(done)

    def matches(self) -> list[Match]:
        """Return the matches of all pairs on all prompts with random sides; new ones are saved."""
        done = self.store.run_replies(self.run_id)
        matches = []
        for item, prompt in enumerate(self.plan.prompts):
            for one, other in combinations(self.plan.contestants, 2):
                swapped = self._stable_random(item, one.id, other.id) % 2
                left, right = (other, one) if swapped else (one, other)
                match = self.store.add_match(left, right, run_id=self.run_id, item=item)
                sides = [
                    tuple(done[item, contestant.id, turn] for turn in range(len(prompt.turns)))
                    for contestant in (left, right)
                ]
                self.store.seat_replies(match, sides[0], sides[1])
                matches.append(Match(match.id, left, right, sides[0], sides[1]))
        return matches

    def unranked(self) -> list[tuple[int, list[tuple[Contestant, Sequence[MatchReply]]]]]:
        """Return the prompts on whose answers the user has no vote, with the answers shuffled."""
        done = self.store.run_replies(self.run_id)
        matches = self.matches()
        voted = {match.id for match in matches if self.store.has_vote(match, HUMAN)}
        pairs = len(self.plan.contestants) * (len(self.plan.contestants) - 1) // 2
        todo: list[tuple[int, list[tuple[Contestant, Sequence[MatchReply]]]]] = []
        for item, prompt in enumerate(self.plan.prompts):
            if any(match.id in voted for match in matches[item * pairs : (item + 1) * pairs]):
                continue
            order = np.random.default_rng([self.plan.seed, item]).permutation(
                len(self.plan.contestants)
            )
            answers: list[tuple[Contestant, Sequence[MatchReply]]] = [
                (
                    contestant,
                    [done[item, contestant.id, turn] for turn in range(len(prompt.turns))],
                )
                for contestant in (self.plan.contestants[at] for at in order.tolist())
            ]
            todo.append((item, answers))
        return todo

    def judge(
        self,
        judges: Mapping[str, Setup],
        rubric: Rubric | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> Iterator[int]:
        """Let models judge all matches; several decide together.

        Args:
            judges: set-ups by judge name.
            rubric: what they look for; None for the default one.
            weights: as for `MatchJudging`.

        Yields:
            The number of judgements done; each judge gives one per match.
        """
        yield from MatchJudging(
            self.store, self.chats, rubric or Rubric(), weights, self.plan.seed, self.counts
        ).judge(self.matches(), judges)

    def rate(self, judges: Mapping[str, Setup]) -> Iterator[int]:
        """Let models rate all answers to all prompts, and yield the number of ratings done."""
        done = self.store.run_replies(self.run_id)
        ratings = self.store.ratings(self.run_id)
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
                if (replies[-1].id, judge, criterion) not in ratings
            ]
            count += len(answers) * len(judging.CRITERIA) - len(todo)
            yield count
            if not todo:
                continue
            chat = self.chats.begin(setup)
            jobs = (judging.rate_answers(chat, *task, self.plan.seed) for task in todo)
            with closing(run_jobs(chat.engine, jobs)) as rated:
                for index, (value, text) in rated:
                    replies, criterion = todo[index]
                    self.store.add_rating(replies[-1], judge, criterion, value, text)
                    count += 1
                    yield count

    def _answer_request(
        self,
        item: int,
        contestant: Contestant,
        turn: int,
        done: Mapping[tuple[int, int, int], MatchReply],
    ) -> AnswerRequest:
        """Create a chat with the earlier turns, and the request for the next reply."""
        chat = self.chats.begin(with_max_tokens(contestant.setup or Setup(), self.plan.max_tokens))
        for before in range(turn):
            reply = done[item, contestant.id, before]
            if reply.has_answer:
                chat.add(reply.prompt, reply.steps or reply.text)
        text = self.plan.prompts[item].turns[turn]
        return AnswerRequest(Seat(contestant, chat), text, turn, self._stable_random(item, turn))

    def _stable_random(self, *key: int) -> int:
        """Return a random number that depends only on the plan's seed and the key."""
        return int(np.random.default_rng([self.plan.seed, *key]).integers(2**31))


def tags_by_match(store: ArenaStore) -> dict[int, tuple[str, ...]]:
    """Return the tags of each tournament's match that has some, by the match's id."""
    plans = {number: TournamentPlan.from_dict(values) for number, _, values in store.runs()}
    return {
        match_id: tags
        for match_id, run_id, item in store.run_matches()
        if (tags := plans[run_id].prompts[item].tags)
    }


def _model_of(contestant: Contestant) -> str:
    return contestant.setup.model if contestant.setup else ""


def with_max_tokens(setup: Setup, max_tokens: int | None) -> Setup:
    """Return the set-up with a maximum reply length if it has none."""
    return dataclasses.replace(
        setup, sampling=setup.sampling.with_fallback(Sampling(max_tokens=max_tokens))
    )


def resolve_judges(
    names: Sequence[str], contestants: Sequence[Contestant], rubric: Rubric | None = None
) -> dict[str, Setup]:
    """Return judges by name: models, and for `panel` all models of the contestants.

    Args:
        names: models or `panel`.
        contestants: the contestants.
        rubric: what the judges look for, which is part of their names; None for the default one.
    """
    models = [name for name in names if name != PANEL]
    if PANEL in names:
        models += [c.setup.model for c in contestants if c.setup is not None]
    rubric = rubric or Rubric()
    return {
        rubric.judge_name(model or "model"): Setup(model=model) for model in dict.fromkeys(models)
    }
