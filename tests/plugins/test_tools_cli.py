"""`chatlm ask --tools` runs tools, and asks before it does where somebody is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.program import run_chatlm

PLUGIN = '''
from chatlm import ToolCall, hookimpl, tool
from chatlm.testing import ScriptedEngine


@tool(permission="allow", read_only=True)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(enabled_by_default=False)
def write(path: str, text: str) -> str:
    """Write a file."""
    from pathlib import Path

    Path(path).write_text(text)
    return "written"


@hookimpl
def register_tools(register):
    register(add)
    register(write)


@hookimpl
def register_engines(register):
    def sums(name):
        call = ToolCall("", "add", '{"a": 2, "b": 3}')
        return ScriptedEngine((call,), "It is 5.")

    def writer(path):
        import json

        call = ToolCall("", "write", json.dumps({"path": path, "text": "hi"}))
        return ScriptedEngine((call,), "Well.")

    register("sums", sums)
    register("writer", writer)
'''


@pytest.fixture(autouse=True)
def plugin(home: Path) -> None:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "things.py").write_text(PLUGIN)


def ask(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = run_chatlm("ask", *arguments, "--json", "Go.")
    return done.returncode, json.loads(done.stdout)


def test_the_answer_and_each_call_are_printed() -> None:
    done = run_chatlm("ask", "-m", "sums:x", "--tools", "add", "2 + 3?")
    assert (done.returncode, done.stdout) == (0, "It is 5.\n")
    lines = done.stderr.splitlines()
    assert '[add {"a": 2, "b": 3} …]' in lines
    assert any(line.startswith("[add · done") for line in lines)
    assert "Tool result: add" in run_chatlm("chats", "show", "1").stdout


def test_json_has_calls_and_results() -> None:
    code, answer = ask("-m", "sums:x", "--tools", "things")
    assert (code, answer["text"], answer["stop_reason"]) == (0, "It is 5.", "end")
    (call,), (result,) = answer["tool_calls"], answer["tool_results"]
    assert (call["name"], json.loads(call["arguments"])) == ("add", {"a": 2, "b": 3})
    assert (result["call_id"], result["text"], result["is_error"]) == (call["id"], "5", False)


def test_without_a_terminal_only_what_is_allowed_runs(tmp_path: Path) -> None:
    file = tmp_path / "new.txt"
    writes = ("-m", f"writer:{file}", "--tools", "write")
    code, answer = ask(*writes)
    assert (code, answer["text"]) == (0, "Well.")
    assert answer["tool_results"][0]["outcome"] == "denied"
    assert "nobody was there" in answer["tool_results"][0]["text"]
    elsewhere = ask(*writes, "--allow", "write(path=/somewhere/else/*)")[1]
    assert elsewhere["tool_results"][0]["outcome"] == "denied"
    both = ask(*writes, "--allow", "write", "--deny", f"write(path={tmp_path}/*)")[1]
    assert "denied by the rule write(path=" in both["tool_results"][0]["text"]
    assert not file.exists()
    allowed = ask(*writes, "--allow", f"write(path={tmp_path}/*)")[1]
    assert (allowed["tool_results"][0]["text"], file.read_text()) == ("written", "hi")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tools", "ad"), "There is no tool ad\nDid you mean add?"),
        (("--tools", "add", "--allow", "a b"), "'a b' is no rule for tools"),
        (("--allow", "add"), "--allow, --deny and --tool-choice require tools."),
        (("--tools", "add", "--tool-choice", "some"), "tool_choice must be"),
    ],
)
def test_mistakes_are_refused(options: tuple[str, ...], message: str) -> None:
    done = run_chatlm("ask", "-m", "sums:x", *options, "Go.")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_dry_run_names_the_tools() -> None:
    done = run_chatlm("ask", "-m", "sums:x", "--tools", "all", "--dry-run", "Go.")
    heading, names = done.stdout.splitlines()[:2]
    assert heading == "[tools]"
    assert {"add", "write"} <= set(names.split(", "))


def test_the_list_says_what_each_tool_does() -> None:
    listed = json.loads(run_chatlm("tools", "list", "--json").stdout)
    mine = {row["name"]: row for row in listed if row["plugin"] == "things"}
    assert {name: (row["permission"], row["offered"]) for name, row in mine.items()} == {
        "add": ("allow", True),
        "write": ("ask", False),
    }
    assert mine["add"]["parameters"]["required"] == ["a", "b"]
    text = run_chatlm("tools", "list").stdout
    assert "Add two numbers." in text
