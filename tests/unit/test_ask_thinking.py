"""`chatlm ask` keeps thoughts apart: the answer on stdout, thoughts on stderr if wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chatlm.cli import ask
from chatlm.cli.main import cli
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.types.parts import Reasoning, Text

THOUGHT = "Two and two.\nThat is easy."
REPLY = (Reasoning(THOUGHT), Text("It is 4."))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, home: Path) -> ScriptedEngine:
    made = ScriptedEngine(thinks=True, thinking_levels=["off", "low"])
    monkeypatch.setattr(ask, "load_engine", lambda settings, plugins: made)
    return made


def run(
    engine: ScriptedEngine,
    *arguments: str,
    reply: Any = REPLY,
    color: bool = False,
    exit_code: int = 0,
) -> Result:
    engine.queue(reply)
    result = CliRunner().invoke(
        cli, ["ask", "2+2?", *arguments], catch_exceptions=False, color=color
    )
    assert result.exit_code == exit_code, result.stderr
    return result


def test_only_the_answer_is_printed(engine: ScriptedEngine) -> None:
    result = run(engine)
    assert (result.stdout, result.stderr) == ("It is 4.\n", "")


def test_thoughts_are_shown_on_stderr(engine: ScriptedEngine) -> None:
    result = run(engine, "--show-thinking")
    assert (result.stdout, result.stderr) == ("It is 4.\n", f"{THOUGHT}\n\n")


def test_thoughts_are_dim_on_a_terminal(engine: ScriptedEngine) -> None:
    result = run(
        engine, "--show-thinking", reply=(Reasoning("Easy\x1b[31m."), Text("4")), color=True
    )
    assert result.stdout == "4\n"
    assert result.stderr == "\x1b[2mEasy␛[31m.\x1b[0m\n\n"


def test_stdout_is_the_same_with_thoughts_and_without(engine: ScriptedEngine) -> None:
    reply = (Text("Let me see. "), Reasoning("Hm."), Text("It is 4."), Reasoning("Right."))
    shown = run(engine, "--show-thinking", reply=reply)
    assert shown.stdout == run(engine, reply=reply).stdout == "Let me see. It is 4.\n"
    assert shown.stderr == "\nHm.\n\n\nRight.\n\n"


def test_json_has_both(engine: ScriptedEngine, home: Path) -> None:
    values = json.loads(run(engine, "--json").stdout)
    assert (values["text"], values["reasoning"]) == ("It is 4.", THOUGHT)
    assert values["usage"]["reasoning_tokens"] == 6
    assert values["reasoning_seconds"] > 0
    with Store(home / "chats.db") as store:
        reply = store.conversation(values["chat"]).turns[0].reply
    assert reply is not None
    assert reply.thoughts.seconds == values["reasoning_seconds"]
    plain = json.loads(run(engine, "--json", reply="It is 4.").stdout)
    assert (plain["reasoning"], plain["reasoning_seconds"]) == (None, None)


def test_a_level_that_the_model_does_not_follow_is_said(engine: ScriptedEngine) -> None:
    assert run(engine, "--think", "low").stderr == ""
    assert engine.requests[-1].sampling.thinking == "low"
    result = run(engine, "--think", "high")
    assert result.stdout == "It is 4.\n"
    assert "scripted does not support thinking = high" in result.stderr
    assert "It supports: auto, off, low." in result.stderr
    (notice,) = json.loads(run(engine, "--think", "high", "--json").stdout)["notices"]
    assert "does not support" in notice


def test_an_empty_answer_after_a_thought_leaves_the_line_clean(engine: ScriptedEngine) -> None:
    result = run(engine, "--show-thinking", reply=(Reasoning("Hm."),), exit_code=4)
    assert result.stdout == ""
    assert result.stderr.startswith("Hm.\n\n[ended without an answer")
