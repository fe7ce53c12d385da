"""Judges with rubrics, reasons and weights, and judging stored matches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from chatlm import Request, Setup, StopReason, Usage, UsageError
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.types.events import Delta, EngineEvent, Finished
from chatlm_arena.answers import run_jobs
from chatlm_arena.commands.ranking import format_blind_answers
from chatlm_arena.judging import VERDICT_PREFIX, compare_answers, majority_verdict
from chatlm_arena.match_judging import WEIGHTED_PANEL, MatchJudging
from chatlm_arena.records import HUMAN
from chatlm_arena.rubrics import Rubric, find_rubric
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.tournament import (
    Tournament,
    TournamentPlan,
    TournamentPrompt,
    read_prompts,
    resolve_judges,
    tags_by_match,
)
from chatlm_arena.votes import Verdict
from tests.plugins.arena import played, reply_of, two

L, R, T = Verdict.LEFT, Verdict.RIGHT, Verdict.TIE


@pytest.fixture
def store() -> Iterator[ArenaStore]:
    with ArenaStore(None) as opened:
        yield opened


class Judge(ScriptedEngine):
    """Replies with the result of a function of the request."""

    def __init__(self, says: Callable[[Request], str]) -> None:
        super().__init__()
        self._says = says

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        self.requests.append(request)
        yield Delta(self._says(request), usage=Usage(1, 0, 1))
        yield Finished(StopReason.END, Usage(1, 0, 1))


def chats_of(engine: ScriptedEngine) -> InMemorySideChats:
    return InMemorySideChats(Config(), PluginHost(), lambda m, r: engine, lambda w: None)


def prefers_hot(request: Request) -> str:
    """The letter of the answer that mentions hot, in the form that is asked for."""
    question = next(m.text for m in request.messages if m.role == "user")
    letter = "A" if question.index("I am hot") < question.index("cold.") else "B"
    if request.messages[-1].role == "assistant":
        return f"{letter}]]"
    return f"The one says more than the other. [[{letter}]]"


def test_reasons_come_before_the_verdict_and_are_stored(store: ArenaStore) -> None:
    engine = Judge(prefers_hot)
    match = played(store, *two(store))
    rubric = find_rubric("accurate", reasoning=True)
    judging = MatchJudging(store, chats_of(engine), rubric)
    judges = resolve_judges(["m"], (), rubric)
    assert list(judges) == ["m (accurate, reasoning)"]
    assert list(judging.judge([match], judges)) == [0, 1]
    (ballot,) = store.ballots()
    assert (ballot.judge, ballot.verdict) == ("m (accurate, reasoning)", "left")
    first, second = store.judgements(match, ballot.judge)
    assert first.text == "The one says more than the other. [[A]]"
    assert (first.verdict, second.verdict) == (L, L)
    system = engine.requests[0].messages[0].text
    assert "Decide only by what is true." in system
    assert "First compare both answers" in system


def test_reasons_without_a_verdict_are_followed_by_a_question_for_it(store: ArenaStore) -> None:
    def says(request: Request) -> str:
        return "B]]" if request.messages[-1].role == "assistant" else "Both are fine, but"

    engine = Judge(says)
    hot, cold = two(store)
    chat = chats_of(engine).begin(Setup())
    job = compare_answers(
        chat, [reply_of(hot, "x")], [reply_of(cold, "y")], 0, Rubric(reasoning=True)
    )
    ((_, (first, second)),) = run_jobs(engine, [job])
    assert first.text == f"Both are fine, but\n\n{VERDICT_PREFIX}B]]"
    assert (first.verdict, second.verdict) == (R, L)
    assert engine.requests[1].messages[-1].text == f"Both are fine, but\n\n{VERDICT_PREFIX}"


def test_weights_decide_a_panel(store: ArenaStore) -> None:
    assert majority_verdict([L, R, R]) is R
    assert majority_verdict([L, R, R], [3.0, 1.0, 1.0]) is L
    assert majority_verdict([L, R, None], [1.0, 1.0, 9.0]) is T
    assert majority_verdict([L, R], [0.0, 0.0]) is None
    match = played(store, *two(store))
    engine = Judge(prefers_hot)
    judging = MatchJudging(store, chats_of(engine), weights={"one": 2.0, "other": 0.0})
    assert list(judging.judge([match], resolve_judges(["one", "other"], ())))[-1] == 2
    (ballot,) = store.ballots()
    assert (ballot.judge, ballot.verdict) == (WEIGHTED_PANEL, "left")


def test_matches_that_are_left_to_judge(store: ArenaStore) -> None:
    hot, cold = two(store)
    voted, other = played(store, hot, cold, L), played(store, hot, cold)
    store.add_match(hot, cold)  # without replies
    assert [match.id for match in store.unjudged_matches("m")] == [voted.id, other.id]
    assert [match.id for match in store.unjudged_matches("m", HUMAN)] == [voted.id]
    store.add_vote(voted, R, "m")
    assert store.unjudged_matches("m", HUMAN) == []
    store.undo_vote("m")
    assert len(store.unjudged_matches("m", HUMAN)) == 1


def test_how_a_judge_depends_on_the_order(store: ArenaStore) -> None:
    match = played(store, *two(store))
    engine = Judge(lambda request: "A]]")  # whatever is read first
    list(MatchJudging(store, chats_of(engine)).judge([match], {"m": Setup()}))
    counts = store.order_counts()["m"]
    assert (counts.both, counts.same, counts.first_wins, counts.decided) == (1, 0, 2, 2)


def test_prompts_have_tags(store: ArenaStore, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "Hi", "tags": ["small talk", "en"]}\n'
        '{"prompt": "1+1", "tags": "math"}\n{"prompt": "Bye"}\n'
    )
    prompts = read_prompts(path)
    assert [prompt.tags for prompt in prompts] == [("small talk", "en"), ("math",), ()]
    assert "tags" not in prompts[2].to_dict()
    assert TournamentPrompt.from_dict(prompts[0].to_dict()) == prompts[0]
    hot, cold = two(store)
    tournament = Tournament(
        store, chats_of(Judge(lambda request: "Yes.")), TournamentPlan(prompts, (hot, cold))
    )
    list(tournament.answer())
    matches = tournament.matches()
    assert tags_by_match(store) == {
        matches[0].id: ("small talk", "en"), matches[1].id: ("math",),
    }  # fmt: skip
    path.write_text('{"prompt": "Hi", "tags": [3]}\n')
    with pytest.raises(UsageError, match="line 1: it has the tags"):
        read_prompts(path)


def test_prompts_that_are_left_to_rank(store: ArenaStore) -> None:
    hot, cold = two(store)
    prompts = (TournamentPrompt(("Hi?",)), TournamentPrompt(("Bye?",)))
    engine = Judge(lambda request: f"I am {'hot' if request.sampling.temperature else 'cold'}.")
    tournament = Tournament(store, chats_of(engine), TournamentPlan(prompts, (hot, cold)))
    list(tournament.answer())
    (first, answers), (second, _) = tournament.unranked()
    assert (first, second) == (0, 1)
    shown = format_blind_answers(answers, "Prompt 1 of 2")
    assert "> Hi?" in shown
    assert "--- 1\nI am ▒▒▒." in shown
    assert "hot" not in shown
    store.add_ranking(answers, [1, 2], run_id=tournament.run_id, item=first)
    assert [item for item, _ in tournament.unranked()] == [1]
    assert len(store.ballots()) == 1
    assert dataclasses.replace(answers[0][1][0]).prompt == "Hi?"
