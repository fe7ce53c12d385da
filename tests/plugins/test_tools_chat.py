"""The tools that come with chatlm in a chat: what runs, what asks, and what is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatlm import ChatSession, Store, ToolCall, ToolResult
from chatlm.chat.tool_set import ToolOptions
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.types.events import Approval, ApprovalNeeded, SessionEvent
from chatlm.types.tool_rules import ToolSettings
from chatlm_tools import plugin
from chatlm_tools.sandbox.sandbox import available_tier

needs_sandbox = pytest.mark.skipif(
    available_tier()[0] is None, reason="nothing on this machine can contain a program"
)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall("", name, json.dumps(arguments))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "chats.db") as opened:
        yield opened


def chat(
    store: Store, *calls: ToolCall, **settings: Any
) -> tuple[list[ApprovalNeeded], list[ToolResult]]:
    """Let the model make the calls, all of which are allowed; return what was asked and done."""
    engine = ScriptedEngine(*((each,) for each in calls), "Done.")
    options = ToolOptions(ToolSettings(enabled=True, **settings))
    host = PluginHost([("tools", plugin)])
    session = ChatSession(store, lambda: engine, plugins=host, tools=options)
    asked = list(_allow(session.send("Go.")))
    conversation = session.conversation
    assert conversation is not None
    reply = conversation.turns[-1].reply
    assert reply is not None
    assert reply.text == "Done."
    return asked, [part for part in reply.parts if isinstance(part, ToolResult)]


def _allow(events: Iterator[SessionEvent]) -> Iterator[ApprovalNeeded]:
    for event in events:
        if isinstance(event, ApprovalNeeded):
            event.answer = Approval(True)
            yield event


def test_harmless_tools_run_without_asking(home: Path, store: Store) -> None:
    asked, results = chat(
        store, call("calculator", expression="0.1 + 0.2"), call("clock"), call("memory_list")
    )
    assert asked == []
    assert results[0].text == "0.1 + 0.2 = 0.3"
    assert [result.is_error for result in results] == [False] * 3


def test_changes_are_asked_about_with_what_they_change(
    home: Path, store: Store, tmp_path: Path
) -> None:
    note = tmp_path / "note.txt"
    note.write_text("one\ntwo\n")
    asked, results = chat(
        store,
        call("files_edit", path=str(note), old="two", new="2"),
        call("memory_save", fact="Ada likes tea."),
        call("files_undo", path=str(note)),
        folders=(str(tmp_path),),
    )
    assert [event.call.name for event in asked] == ["files_edit", "memory_save", "files_undo"]
    assert asked[0].preview is not None
    assert "-two\n+2" in asked[0].preview.text
    assert [result.is_error for result in results] == [False] * 3
    assert note.read_text() == "one\ntwo\n"
    assert "Ada" in (home / "plugin-data" / "tools" / "memory.json").read_text()


def test_files_outside_are_refused_whatever_rules_allow(
    home: Path, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret text")
    (tmp_path / "notes").mkdir()
    asked, (result,) = chat(
        store,
        call("files_read", path=str(tmp_path / "secret")),
        folders=(str(tmp_path / "notes"),),
        allow=("files",),
    )
    assert asked == []
    assert result.is_error
    assert "secret text" not in result.text


def test_what_leaves_the_machine_or_runs_commands_is_not_offered(home: Path, store: Store) -> None:
    _, results = chat(
        store, call("shell", command="ls"), call("fetch", address="https://a.example")
    )
    assert all(result.is_error for result in results)
    assert all("no such tool" in result.text for result in results)


@needs_sandbox
def test_the_shell_asks_even_if_a_rule_allows_it(home: Path, store: Store) -> None:
    asked, (result,) = chat(
        store, call("shell", command="echo $((6 * 7))"), on=("shell",), allow=("shell", "*")
    )
    assert [event.preview.text for event in asked if event.preview] == ["echo $((6 * 7))"]
    assert "42" in result.text
    assert not result.is_error


@needs_sandbox
def test_a_program_answers_the_model(home: Path, store: Store) -> None:
    asked, (result,) = chat(store, call("python", code="sum(range(10))"))
    assert len(asked) == 1
    assert (result.text, result.is_error) == ("45", False)
