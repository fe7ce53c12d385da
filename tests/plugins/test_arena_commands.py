"""`chatlm arena …` for users and scripts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from chatlm_arena.store import store as store_module
from chatlm_arena.votes import Verdict
from tests import models
from tests.plugins.arena import chatlm, json_lines, played, two


def test_golden_scores_on_the_command_line(home: Path, shared_data: Path) -> None:
    taken = chatlm("arena", "import", str(shared_data / "arena" / "food.csv"))
    assert taken.returncode == 0, taken.stderr
    assert "30 votes" in taken.stdout
    board = chatlm("arena", "leaderboard", "--json", "--k", "4", "--start", "1000")
    rows = {row["name"]: row for row in json.loads(board.stdout)}
    with (shared_data / "arena" / "food-golden.csv").open() as file:
        golden = [r for r in csv.DictReader(file) if r["algorithm"] in ("elo", "bradley_terry")]
    assert len(golden) == 10
    for row in golden:
        ours = rows[row["item"]][row["algorithm"]]
        assert ours == pytest.approx(float(row["score"]), abs=1e-5)
    assert set(rows["Tacos"]) == {
        "name", "elo", "bradley_terry", "low", "high", "games", "win_rate",
    }  # fmt: skip
    shown = chatlm("arena", "leaderboard", "--matrix", "--history", COLUMNS="100")
    assert "├" in shown.stdout
    assert "Not enough votes yet" in shown.stdout
    again = chatlm("arena", "import", str(shared_data / "arena" / "food.csv"))
    assert (again.returncode, "already" in again.stderr) == (2, True)


def test_contestants(chat_home: Path) -> None:
    models.lend(chat_home, models.embedder_model())
    assert "No contestants yet" in chatlm("arena", "contestants", "list").stdout
    added = chatlm(
        "arena", "contestants", "add", "mine", "--adapter", "pirate", "--template", "translate",
        "-v", "language=French", "--index", "manual", "-s", "temperature=0.2", "--system", "Hi.",
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    (row,) = json.loads(chatlm("arena", "contestants", "list", "--json").stdout)
    assert row == {
        "name": "mine",
        "setup": {
            "adapter": "pirate",
            "template": "translate",
            "values": {"language": "French"},
            "system": "Hi.",
            "sampling": {"temperature": 0.2},
            "kept": {"rag": {"index": "manual"}},
        },
        "index": "manual",
    }
    chatlm("arena", "contestants", "edit", "mine", "--rename", "ours", "-s", "temperature=",
           "--index", "", "--template", "", "-v", "language=")  # fmt: skip
    (row,) = json.loads(chatlm("arena", "contestants", "list", "--json").stdout)
    assert row["name"] == "ours"
    assert set(row["setup"]) == {"adapter", "system", "kept"}
    assert chatlm("arena", "contestants", "remove", "ours", "--yes").returncode == 0
    assert json.loads(chatlm("arena", "contestants", "list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("contestants", "add", "x", "-s", "temperature"), "has no ="),
        (("contestants", "add", "x", "-s", "temperature=hot"), "must be a number"),
        (("contestants", "add", "x", "-s", "temperature=9"), "from 0 to 5"),
        (("contestants", "add", "x", "-s", "heat=1"), "unknown sampling setting heat"),
        (("contestants", "add", "x", "--adapter", "pirat"), "Did you mean pirate?"),
        (("contestants", "add", "x", "--adapter", "9"), "List them: chatlm adapters list"),
        (("contestants", "add", "x", "--template", "9"), "List them: chatlm templates list"),
        (("contestants", "add", "x", "--template", "translate"), "needs language"),
        (("contestants", "add", "x", "--index", "9"), "List them: chatlm rag list"),
        (("contestants", "edit", "x"), "no contestant 'x'"),
        (("contestants", "remove", "x", "--yes"), "no contestant 'x'"),
        (("leaderboard", "--k", "40"), "k must be from 4 to 32"),
        (("import", "nowhere.csv"), "cannot be read"),
        (("export", "--to", "/nowhere/x.jsonl"), "cannot be written"),
        ((), "needs a terminal"),
    ],
)
def test_bad_input_is_reported(home: Path, arguments: tuple[str, ...], what: str) -> None:
    done = chatlm("arena", *arguments)
    assert done.returncode == 2
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_export(home: Path, tmp_path: Path) -> None:
    with store_module.open_arena_store() as store:
        played(store, *two(store), Verdict.LEFT)
    (row,) = json_lines(chatlm("arena", "export").stdout)
    assert list(row) == ["messages"]
    path = tmp_path / "pairs.jsonl"
    done = chatlm("arena", "export", "--as", "dpo", "--to", str(path))
    assert done.stdout == "Wrote 1 example.\n"
    (row,) = json_lines(path.read_text())
    assert list(row) == ["prompt", "chosen", "rejected"]


def test_what_is_exported_can_be_trained_from(home: Path, tmp_path: Path) -> None:
    from chatlm_lora import dataset

    with store_module.open_arena_store() as store:
        hot, cold = two(store)
        for _ in range(3):
            played(store, hot, cold, Verdict.LEFT)
        played(store, hot, cold, Verdict.RIGHT)
    path = tmp_path / "better.jsonl"
    chatlm("arena", "export", "--to", str(path))
    data = dataset.read_dataset(path, seed=0, held_out_share=0.5)
    assert data.train[0][-1].role == "assistant"
