"""A setting of `thinking` that the model does not follow is said, not ignored."""

from __future__ import annotations

import dataclasses

import pytest

from chatlm.chat.session import ChatSession
from chatlm.engines.model_families import thinking_levels
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.types.engine import thinking_problem
from chatlm.types.events import Notice
from chatlm.types.sampling import THINKING_LEVELS, Sampling, Thinking

PLAIN = ScriptedEngine(thinks=False).info
ALWAYS = ScriptedEngine(thinks=True).info
LEVELS = ScriptedEngine(thinks=True, thinking_levels=["low", "medium", "high"]).info
SERVER = ScriptedEngine().info


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"messages", "enable_thinking"}, ("off", "low", "medium", "high")),
        ({"thinking"}, ("off", "low", "medium", "high")),
        ({"reasoning_effort"}, ("low", "medium", "high")),
        ({"thinking_budget"}, ("off",)),
        ({"messages", "tools"}, ()),
    ],
)
def test_a_template_follows_what_it_reads(
    variables: set[str], expected: tuple[Thinking, ...]
) -> None:
    assert thinking_levels(variables) == expected


@pytest.mark.parametrize(
    ("thinking", "said"),
    [
        (None, ["", "", "", ""]),
        ("auto", ["", "", "", ""]),
        ("off", ["", "has no switch for thinking", "has no setting thinking = off", ""]),
        ("high", ["does not think before it answers", "has no switch for thinking", "", ""]),
    ],
)
def test_what_a_model_does_not_follow_is_a_problem(
    thinking: Thinking | None, said: list[str]
) -> None:
    for info, expected in zip((PLAIN, ALWAYS, LEVELS, SERVER), said, strict=True):
        problem = thinking_problem(thinking, info)
        assert (problem is None) == (not expected)
        assert expected in str(problem)
        assert problem is None or problem.hint


def test_every_value_but_auto_is_followed_or_said() -> None:
    for level in THINKING_LEVELS[1:]:
        followed = level in LEVELS.thinking_levels
        assert (thinking_problem(level, LEVELS) is None) == followed


def notices(engine: ScriptedEngine, sampling: Sampling) -> list[Notice]:
    session = ChatSession(Store(None), lambda: engine, sampling=sampling)
    return [event for event in session.send("Hi") if isinstance(event, Notice)]


def test_a_turn_says_that_the_setting_has_no_effect() -> None:
    engine = ScriptedEngine("Hello.", thinks=False)
    (notice,) = notices(engine, Sampling(thinking="high"))
    assert "thinking = high has no effect" in notice.text
    assert "choose a model that thinks" in notice.text
    assert notice.topic
    assert notices(engine, Sampling(thinking="off")) == []
    assert notices(engine, Sampling()) == []


def test_a_turn_on_a_model_that_follows_it_says_nothing() -> None:
    engine = ScriptedEngine("Hello.", thinks=True, thinking_levels=["off"])
    assert notices(engine, Sampling(thinking="off")) == []
    assert engine.requests[-1].sampling.thinking == "off"


def test_the_name_of_the_model_is_one_line() -> None:
    info = dataclasses.replace(ALWAYS, model="a\nb")
    assert "a b has no switch" in str(thinking_problem("off", info))


def test_off_in_yaml_is_off() -> None:
    assert Sampling.from_dict({"thinking": False}) == Sampling(thinking="off")
