"""Chain of thought, consensus and tree of thought, with the real default model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from chatlm import (
    ChatSession,
    ContinuationUnsupported,
    Delta,
    EngineError,
    EngineEvent,
    Finished,
    LocalEngine,
    Message,
    PromptReady,
    Request,
    Sampling,
    StopReason,
    Store,
    ToolDefinition,
    UsageError,
    parse_reply,
    parse_schema,
)
from chatlm.chat.replay import ReplayFinished, replay
from chatlm.chat.reply_methods import stream_request
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.types.events import TokenLogprob
from chatlm_reasoning import plugin
from chatlm_reasoning.answers import vote_key
from chatlm_reasoning.chain import STEP_BY_STEP
from chatlm_reasoning.consensus import count_votes
from chatlm_reasoning.generation import Generation
from chatlm_reasoning.tree import yes_probability
from tests.program import run_chatlm

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return PluginHost([("reasoning", plugin)])


def request(method: str, **sampling: object) -> Request:
    settings = {"method": method, "max_tokens": 60, "seed": 3, **sampling}
    return Request((Message("user", QUESTION),), Sampling(**settings))  # type: ignore[arg-type]


def parts(events: list[EngineEvent]) -> tuple[str, str]:
    """Return the thoughts and the answer."""
    deltas = [event for event in events if isinstance(event, Delta)]
    thoughts = "".join(event.text for event in deltas if event.part == "reasoning")
    return thoughts, "".join(event.answer for event in deltas)


def test_equal_answers() -> None:
    assert vote_key("$1,250.00") == vote_key("1250 dollars") == "1250"
    assert vote_key("−3") == vote_key("-3.0") == "-3"
    assert vote_key("0.0") == "0"
    assert vote_key("Paris.") == vote_key("paris")
    assert vote_key("3 of 4") != vote_key("3")


def test_the_answer_of_most_samples_wins() -> None:
    vote = count_votes(["41", "", "42", "forty", "42 apples"])
    assert vote.counts == (("42", 2), ("41", 1), ("forty", 1))
    assert (vote.winner, vote.without_answer) == (2, 1)
    assert str(vote) == "42 × 2 · 41 × 1 · forty × 1 · no answer × 1"


def test_without_any_answer_nothing_wins() -> None:
    assert count_votes(["", ""]).winner is None


def test_consensus_counts_what_it_costs(engine: LocalEngine, host: PluginHost) -> None:
    asked = request("consensus:3", temperature=0.0)
    events = list(stream_request(engine, asked, host))
    thoughts, answer = parts(events)
    assert [type(event) for event in events].count(PromptReady) == 1
    assert all(f"Sample {number}: " in thoughts for number in (1, 2, 3))
    assert "Sampled at temperature 0.7 instead of 0" in thoughts
    assert "\nVotes: " in thoughts
    assert "of 3 samples" in answer or "No sample came to an answer" in answer
    last = events[-1]
    assert isinstance(last, Finished)
    generated = f"{last.usage.completion_tokens:,} tokens generated"
    assert thoughts.rstrip().splitlines()[-1].startswith(f"3 samples: {generated}")
    assert 0 < last.usage.reasoning_tokens < last.usage.completion_tokens
    again = parts(list(stream_request(engine, asked, host)))
    assert (again[0].rpartition("\n")[0], again[1]) == (thoughts.rpartition("\n")[0], answer)


def test_consensus_of_replies_that_fit_a_schema(engine: LocalEngine, host: PluginHost) -> None:
    asked = request("consensus:3", schema="city Paris|London")
    events = list(stream_request(engine, asked, host))
    thoughts, answer = parts(events)
    assert parse_reply(parse_schema("city Paris|London"), answer)["city"] in ("Paris", "London")
    assert "Votes: " in thoughts


def test_consensus_can_be_left_at_any_token(engine: LocalEngine, host: PluginHost) -> None:
    events = stream_request(engine, request("consensus:4"), host)
    for _ in range(12):
        next(events)
    events.close()
    assert any(isinstance(event, Finished) for event in engine.stream(request("off")))


def test_tree_comes_to_an_answer(engine: LocalEngine, host: PluginHost) -> None:
    events = list(stream_request(engine, request("tree:2", max_tokens=40), host))
    thoughts, answer = parts(events)
    assert "Step 1\n→ " in thoughts
    assert "Best path: " in thoughts
    assert "Answer:" in answer.splitlines()[-1]
    assert isinstance(events[-1], Finished)
    assert events[-1].stop_reason is StopReason.END


def test_the_score_is_yes_against_no() -> None:
    no = TokenLogprob(b"No", -2.0)
    yes = TokenLogprob(b" yes", -1.0, (TokenLogprob(b" yes", -1.0), no, TokenLogprob(b"x", -0.1)))
    assert yes_probability(Generation(logprobs=(yes,))) == pytest.approx(0.731, abs=1e-3)
    assert yes_probability(Generation()) == 0.5


def test_chain_asks_for_steps(host: PluginHost) -> None:
    scripted = ScriptedEngine("One. Two. Answer: three")
    list(stream_request(scripted, request("chain"), host))
    assert scripted.requests[0].messages[-1].text == f"{QUESTION}\n\n{STEP_BY_STEP}"
    assert scripted.requests[0].sampling.method is None


def test_a_model_that_thinks_is_asked_as_usual(host: PluginHost) -> None:
    scripted = ScriptedEngine("Paris.", thinks=True)
    list(stream_request(scripted, request("chain"), host))
    assert scripted.requests[0].messages[-1].text == QUESTION


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("consensus:1", "2 to 64 samples, not 1"),
        ("consensus:lots", "2 to 64 samples, not lots"),
        ("tree:99", "2 to 8 steps at a time"),
        ("chain:2", "takes no argument"),
        ("consensu", "no method consensu\nDid you mean consensus"),
    ],
)
def test_wrong_methods_are_named(host: PluginHost, method: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        list(stream_request(ScriptedEngine("x"), request(method), host))


def test_what_methods_cannot_do_is_refused(host: PluginHost) -> None:
    plain = request("chain")
    tool = ToolDefinition("clock", "Tells the time.", {"type": "object"})
    begun = dataclasses.replace(plain, messages=(*plain.messages, Message("assistant", "It")))
    for wrong in (
        dataclasses.replace(plain, logprobs=2),
        dataclasses.replace(plain, tools=(tool,)),
        dataclasses.replace(plain, sampling=Sampling(method="tree", schema="city str")),
    ):
        with pytest.raises(UsageError):
            list(stream_request(ScriptedEngine("x"), wrong, host))
    with pytest.raises(ContinuationUnsupported):
        list(stream_request(ScriptedEngine("x"), begun, host))


def test_an_engine_refuses_a_method(engine: LocalEngine) -> None:
    for each in (engine, ScriptedEngine("x")):
        with pytest.raises(
            (UsageError, EngineError), match="method chain runs the model several times"
        ):
            list(each.stream(request("chain")))


def test_a_reply_by_vote_is_stored_and_replayed(engine: LocalEngine, host: PluginHost) -> None:
    with Store(None) as store:
        sampling = Sampling(method="consensus:3", max_tokens=40, seed=5)
        session = ChatSession(store, lambda: engine, plugins=host, session_sampling=sampling)
        list(session.send(QUESTION))
        assert session.conversation is not None
        reply = session.conversation.turns[-1].reply
        assert reply is not None
        assert "Votes: " in reply.reasoning
        last = list(replay(store, engine, reply.id, plugins=host))[-1]
        assert isinstance(last, ReplayFinished)
        assert last.text == reply.text


def test_methods_are_listed(home: Path) -> None:
    listed = json.loads(run_chatlm("reason", "list", "--json").stdout)
    assert [row["name"] for row in listed] == ["chain", "consensus", "tree"]


def test_a_question_by_several_methods(chat_home: Path) -> None:
    args = ("--method", "off", "--method", "consensus:2", "--max-tokens", "20", "--json")
    rows = json.loads(run_chatlm("reason", "compare", QUESTION, *args).stdout)
    assert [row["method"] for row in rows] == ["off", "consensus:2"]
    assert rows[1]["completion_tokens"] > rows[0]["completion_tokens"] > 0
