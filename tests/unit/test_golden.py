"""What chatlm 0.1.0 wrote is opened, printed and exported as it was; see tests/golden/README.md.

All is seen from outside, through commands, so that names inside may change.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from chatlm.cli.main import cli
from chatlm.plugin_host import hookspecs
from chatlm.store.store import Store
from tests.program import run_chatlm

GOLDEN = Path(__file__).parents[1] / "golden"
OUTPUTS = GOLDEN / "outputs"
COMMANDS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "commands.json").read_text("utf-8"))


@pytest.fixture
def golden_home(home: Path) -> Path:
    """A copy of the golden home."""
    shutil.copytree(GOLDEN / "home", home)
    return home


def chatlm(*arguments: str) -> bytes:
    """Return a command's output; those about chats load no plugins and run in this process."""
    if arguments[0] == "chats" and arguments[1] != "replay":
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result.stdout_bytes
    done = run_chatlm(*arguments, environment={"COLUMNS": "100"})
    # a replay that differs ends with 1
    assert done.returncode in ((0, 1) if "replay" in arguments else (0,)), done.stderr
    return done.stdout.encode()


def parts(golden: Any, found: Any) -> Any:
    """Return the found value without the keys that the golden value lacks."""
    if isinstance(golden, dict) and isinstance(found, dict):
        return {key: parts(value, found[key]) for key, value in golden.items() if key in found}
    if isinstance(golden, list) and isinstance(found, list):
        if not all(isinstance(row, dict) for row in (*golden, *found)):
            return found
        named = {_name(row): row for row in golden}
        return [parts(named[_name(row)], row) for row in found if _name(row) in named]
    return found


def _name(row: dict[str, Any]) -> str:
    """Return the identity of a row in its table."""
    for key in ("key", "id", "name", "kind", "role", "prompt", "path"):
        if key in row:
            return str(row[key])
    return json.dumps(row, sort_keys=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_golden_home_is_read_as_ever(golden_home: Path, name: str) -> None:
    golden = (OUTPUTS / name).read_bytes()
    printed = chatlm(*COMMANDS[name]["run"])
    how = COMMANDS[name].get("compare", "bytes")
    if how == "bytes":
        assert printed.decode() == golden.decode()
        return
    wanted = json.loads(golden)
    if replaced := COMMANDS[name].get("replaced"):
        wanted = [row for row in wanted if row["key"] not in replaced]
    found = parts(wanted, json.loads(printed))
    assert found == (approximate(wanted) if how == "numbers" else wanted)


def approximate(value: Any) -> Any:
    """The same value, with room for the last digits of its floats."""
    if isinstance(value, dict):
        return {key: approximate(each) for key, each in value.items()}
    if isinstance(value, list):
        return [approximate(each) for each in value]
    return pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value


@pytest.mark.parametrize(
    ("file", "golden", "form"),
    [
        ("outputs/chats/all.jsonl", "imported.jsonl", "jsonl"),
        ("outputs/chats/all.messages.jsonl", "messages-again.jsonl", "messages"),
        ("imports/conversations.json", "chatgpt.jsonl", "jsonl"),
        ("imports/messages.jsonl", "messages.jsonl", "messages"),
    ],
)
def test_an_exported_chat_is_imported_as_ever(
    home: Path, file: str, golden: str, form: str
) -> None:
    chatlm("chats", "import", "--skip-bad", str(GOLDEN / file))
    printed = chatlm("chats", "export", "--all", "--format", form)
    assert printed.decode() == (OUTPUTS / "imported" / golden).read_bytes().decode()


def test_what_a_golden_home_exports_is_there_already(golden_home: Path) -> None:
    file = str(OUTPUTS / "chats" / "all.jsonl")
    said = json.loads(chatlm("chats", "import", file, "--json"))
    assert (said["added"], said["there"], said["bad"]) == ([], 16, [])


def test_reading_a_golden_home_changes_no_chat(golden_home: Path) -> None:
    fork = chatlm("chats", "fork", "1")
    assert fork
    chatlm("chats", "delete", "18", "--yes")
    printed = chatlm("chats", "export", "--all", "--format", "jsonl")
    assert printed == (OUTPUTS / "chats" / "all.jsonl").read_bytes()


def test_a_golden_config_stays_as_it_is_when_one_setting_changes(golden_home: Path) -> None:
    path = golden_home / "config.toml"
    before = path.read_text(encoding="utf-8")
    chatlm("config", "set", "sampling.temperature", "0.9")
    after = path.read_text(encoding="utf-8")
    assert after == before.replace("temperature = 0.7", "temperature = 0.9")


def test_the_golden_settings_that_others_replaced_still_act(golden_home: Path) -> None:
    found = {row["key"]: row["value"] for row in json.loads(chatlm("config", "show", "--json"))}
    assert (found["engine"], found["weights"]) == ("transformers", "float32")


def test_golden_votes_are_imported_as_ever(home: Path) -> None:
    for name in ("votes.csv", "votes.jsonl"):
        chatlm("arena", "import", str(GOLDEN / "imports" / name))
    rows = json.loads(chatlm("arena", "leaderboard", "--json"))
    games = {row["name"]: (row["games"], row["win_rate"]) for row in rows}
    assert games == {
        "cold": (3, pytest.approx(2.5 / 3)),
        "alpha": (5, pytest.approx(2.5 / 5)),
        "beta": (4, pytest.approx(1 / 4)),
    }


def test_the_arena_reports_on_golden_votes(golden_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "arena.html"
    chatlm("arena", "report", "--to", str(path))
    page = path.read_text(encoding="utf-8")
    for name in ("cold", "very hot", "with everything", "alpha", "beta"):
        assert name in page
    assert "taken out" not in page


def test_no_hook_is_gone() -> None:
    golden = json.loads((GOLDEN / "hooks.json").read_text("utf-8"))
    assert [name for name in golden if not callable(getattr(hookspecs, name, None))] == []


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that invoke it."""

    def below(
        command: click.Command, words: str, parent: click.Context | None
    ) -> Iterator[tuple[str, click.Command]]:
        yield words, command
        if isinstance(command, click.Group):
            context = click.Context(command, parent=parent, info_name=words)
            for name in [*command.list_commands(context), *command.commands]:
                inner = command.get_command(context, name)
                assert inner is not None, f"{words} {name}"
                yield from below(inner, f"{words} {name}", context)

    yield from below(cli, "chatlm", None)


@pytest.fixture(scope="module")
def all_commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, click.Command]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLM_HOME", str(tmp_path_factory.mktemp("home")))
        return dict(commands())


def test_no_command_and_no_option_is_gone(all_commands: dict[str, click.Command]) -> None:
    golden = json.loads((GOLDEN / "commands-and-options.json").read_text("utf-8"))
    missing = [words for words in golden if words not in all_commands]
    for words, options in golden.items():
        if words in all_commands:
            there = {
                option
                for parameter in all_commands[words].params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            missing += [f"{words} {option}" for option in options if option not in there]
    assert missing == []


def test_no_choice_is_gone(all_commands: dict[str, click.Command]) -> None:
    golden = json.loads((GOLDEN / "choices.json").read_text("utf-8"))
    missing = []
    for place, choices in golden.items():
        words, _, name = place.rpartition(" ")
        there = {
            str(choice)
            for parameter in all_commands[words].params
            if isinstance(parameter.type, click.Choice)
            and (name in parameter.opts or name.lower() == parameter.name)
            for choice in parameter.type.choices
        }
        missing += [f"{place} {choice}" for choice in choices if choice not in there]
    assert missing == []


def test_golden_drafts_are_still_there(golden_home: Path) -> None:
    with Store(golden_home / "chats.db") as store:
        assert store.draft(1) == "And how do I get to Lisb"
        assert store.draft(None) == "A message for a new chat\nwith two lines"
