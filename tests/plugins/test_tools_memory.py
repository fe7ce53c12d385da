"""The tools `memory_…`, `documents_…` and `clock`, and what the user does with facts."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chatlm import Config, Passage, PluginContext, UsageError
from chatlm.testing import ScriptedToolContext, run_tool
from chatlm_tools import documents
from chatlm_tools.actions import change_memory
from chatlm_tools.clock import clock, describe_time
from chatlm_tools.commands import memory as memory_command
from chatlm_tools.documents import documents_list, documents_search
from chatlm_tools.memory import (
    MAX_LENGTH,
    Memory,
    memory_delete,
    memory_list,
    memory_save,
    user_memory,
)


@pytest.fixture
def context(tmp_path: Path) -> ScriptedToolContext:
    return ScriptedToolContext(data_folder=tmp_path / "data")


def test_facts_are_saved_listed_and_deleted(context: ScriptedToolContext) -> None:
    assert run_tool(memory_list, {}, context).text == "Nothing is remembered."
    assert run_tool(memory_save, {"fact": "Ada  likes\ntea."}, context).text.endswith("fact 1.")
    run_tool(memory_save, {"fact": "Bob likes coffee."}, context)
    today = datetime.date.today().isoformat()
    assert run_tool(memory_list, {"about": "ADA"}, context).text == f"1. Ada likes tea. ({today})"
    assert run_tool(memory_delete, {"number": 1}, context).text == "Forgot: Ada likes tea."
    assert run_tool(memory_delete, {"number": 1}, context).is_error
    assert "Bob" in run_tool(memory_list, {}, context).text
    run_tool(memory_save, {"fact": "Ada likes milk."}, context)
    assert run_tool(memory_list, {"about": "milk"}, context).text.startswith("3. ")


def test_what_is_not_remembered(context: ScriptedToolContext, tmp_path: Path) -> None:
    run_tool(memory_save, {"fact": "Ada likes tea."}, context)
    for fact, reason in (
        ("ada likes TEA.", "known already"),
        ("  \n ", "empty"),
        ("x" * (MAX_LENGTH + 1), "500 characters"),
    ):
        output = run_tool(memory_save, {"fact": fact}, context)
        assert output.is_error
        assert reason in output.text
    incognito = ScriptedToolContext(data_folder=tmp_path / "other", incognito=True)
    assert run_tool(memory_save, {"fact": "A secret."}, incognito).is_error
    assert not (tmp_path / "other").exists()


def test_writing_asks_and_reading_does_not() -> None:
    assert (memory_save.permission, memory_delete.permission) == ("ask", "ask")
    assert memory_list.permission == "allow"
    preview = memory_save.preview and memory_save.preview({"fact": "Ada likes tea."})
    assert preview is not None
    assert "Ada likes tea." in preview.text


def test_facts_that_are_saved_at_once_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: Memory(tmp_path).add(f"Fact {n}."), range(40)))
    facts = Memory(tmp_path).facts()
    assert sorted(fact.id for fact in facts) == list(range(1, 41))


def test_a_damaged_file_is_told_and_kept(context: ScriptedToolContext) -> None:
    path = Memory(context.data_folder).path
    path.parent.mkdir()
    path.write_text('[{"id": 1')
    for tool, arguments in ((memory_list, {}), (memory_save, {"fact": "x"})):
        output = run_tool(tool, arguments, context)
        assert output.is_error
        assert "cannot be read" in output.text
    assert path.read_text() == '[{"id": 1'


def test_the_user_edits_facts_with_a_command(home: Path) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(memory_command, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert run("list") == "Nothing is remembered.\n"
    run("add", "Ada likes tea.")
    run("edit", "1", "Ada likes \x1b[31mmilk.")
    assert "\x1b" not in run("list")
    rows = json.loads(run("list", "--json"))
    assert [(row["id"], row["text"]) for row in rows] == [(1, "Ada likes \x1b[31mmilk.")]
    assert run("delete", "1").startswith("Deleted: Ada")
    assert json.loads(run("list", "--json")) == []
    with pytest.raises(UsageError, match="no fact 7"):
        CliRunner().invoke(memory_command, ("delete", "7"), catch_exceptions=False)


def test_the_user_edits_facts_on_the_screen(home: Path) -> None:
    assert change_memory("add Ada likes tea.") == "Fact 1 is remembered."
    assert change_memory("edit 1 Ada likes milk.") == "Fact 1 is changed."
    assert [fact.text for fact in user_memory().facts()] == ["Ada likes milk."]
    assert change_memory("delete 1") == "Fact 1 is deleted."
    for wrong in ("add", "edit 1", "edit x y", "delete", "delete all", "forget 1"):
        with pytest.raises(UsageError):
            change_memory(wrong)


class Library:
    """The service of another plugin."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def collections(self) -> Sequence[str]:
        return self.names

    def search(self, collection: str, query: str) -> Sequence[Passage]:
        return [Passage(f"{query} in {collection}", "a.md", 1.0)] if "none" not in query else []


def use_service(monkeypatch: pytest.MonkeyPatch, found: Any, folder: Path) -> None:
    context = PluginContext(
        Config(), folder, None, lambda name: found if name == "documents" else None
    )
    monkeypatch.setattr(documents, "_contexts", [context])


def test_documents_are_searched_through_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_service(monkeypatch, Library("letters", "manual"), tmp_path)
    assert run_tool(documents_list).text == "letters\nmanual"
    output = run_tool(documents_search, {"query": "tea", "collection": "letters"})
    assert output.passages == (Passage("tea in letters", "a.md", 1.0),)
    assert output.untrusted
    output = run_tool(documents_search, {"query": "tea"})
    assert output.is_error
    assert "letters, manual" in output.text
    output = run_tool(documents_search, {"query": "none", "collection": "manual"})
    assert (output.text, output.is_error) == ("Nothing in manual is about that.", False)
    use_service(monkeypatch, Library("manual"), tmp_path)
    assert run_tool(documents_search, {"query": "tea"}).passages


def test_without_a_service_or_collections_the_model_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_service(monkeypatch, None, tmp_path)
    assert run_tool(documents_search, {"query": "tea"}).is_error
    use_service(monkeypatch, Library(), tmp_path)
    output = run_tool(documents_search, {"query": "tea"})
    assert "no collections" in output.text


def test_the_clock_tells_date_weekday_and_zone() -> None:
    moment = datetime.datetime(2026, 11, 27, 8, 5, 0, tzinfo=datetime.UTC)
    assert describe_time(moment) == "Friday, 2026-11-27 08:05:00 UTC (UTC+0000), week 48"
    assert str(datetime.datetime.now(datetime.UTC).year) in run_tool(clock, {"zone": "UTC"}).text
    assert not run_tool(clock).is_error
    for wrong in ("Mars/Base", "../etc/passwd", "/etc/passwd"):
        assert run_tool(clock, {"zone": wrong}).is_error
