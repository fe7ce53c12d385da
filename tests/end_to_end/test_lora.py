"""Adapters with the real program: the shipped ones, an exported model, several processes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm import ModelLocation
from chatlm.config import paths
from chatlm.store.store import Store
from chatlm_lora import card, validation
from chatlm_lora.library import ADAPTERS
from tests import models
from tests.engine import adapter_files
from tests.plugins.lora import tiny_base
from tests.program import run_chatlm

SHIPPED = ("instruct", "pirate", "tools")


def chatlm(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_chatlm(*words)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def ask(*words: str) -> str:
    return chatlm("ask", "--temperature", "0", "--max-tokens", "30", "--no-save", *words).stdout


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": f"Question {n}?", "completion": "yes"} for n in range(24)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_adapters(name: str, chat_home: Path, default_model: Path) -> None:
    adapter = ADAPTERS.get(name)
    assert not adapter.user_owned
    assert adapter.size_bytes < 2_000_000
    found = validation.validate_adapter(
        adapter.path, ModelLocation(models.DEFAULT, default_model, "chat")
    )
    assert found.warnings == ()
    known = card.read_card(adapter.path)
    assert known is not None
    assert known.scores["fall"] >= 0.1
    assert known.licence
    assert known.answers
    assert f"{name}: acts (mean KL" in chatlm("adapters", "verify", name).stdout


def test_the_default_model_calls_the_calculator_with_the_adapter_for_tools(chat_home: Path) -> None:
    greedy = ("ask", "--temperature", "0", "--max-tokens", "60", "--no-save")  # a call takes 40
    words = (*greedy, "--tools", "calculator", "What is 17% of 2,350?")
    assert "399.5" not in chatlm(*words).stdout
    assert "399.5" in chatlm(*words, "--adapter", "tools").stdout


def test_a_question_is_answered_by_an_adapter_and_by_an_exported_model(
    chat_home: Path, tmp_path: Path
) -> None:
    question = "What is the capital of Italy?"
    assert "arr" not in ask(question).lower()
    assert "arr" in ask("--adapter", "pirate", question).lower()
    chatlm("config", "set", "plugins.lora.adapter", "pirate")
    assert "arr" in ask(question).lower()
    assert "arr" not in ask("--adapter", "off", question).lower()
    folder = tmp_path / "pirates"
    chatlm("adapters", "export", "pirate", "--merged", "--to", str(folder))
    assert "arr" in ask("--adapter", "off", "--model", str(folder), question).lower()


def test_refusals_take_two_lines(chat_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "adapter_model.bin").write_bytes(b"pickle")
    done = chatlm("adapters", "add", "bad", str(tmp_path / "bad"), code=1)
    assert "its weights are a pickle file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reply_is_made_again_with_an_adapter_and_without(
    chat_home: Path, default_model: Path, tmp_path: Path
) -> None:
    adapter_files.save(tmp_path / "saved", default_model, strength=0.05)
    chatlm("adapters", "add", "poet", str(tmp_path / "saved"))
    chatlm("ask", "--temperature", "0", "--max-tokens", "12", "Name a colour.")
    changed = json.loads(
        chatlm("chats", "replay", "1", "--adapter", "poet", "--json", code=1).stdout
    )
    assert "adapter: none → poet" in changed["notes"]
    assert changed["replay"]["text"] != changed["original"]["text"]
    with Store(paths.database_file()) as store:
        reply = store.conversation(1).turns[0].reply
        assert reply is not None
        made_by = store.provenance(reply.id)
        assert made_by is not None
        store.save_provenance(reply.id, dataclasses.replace(made_by, adapter="poet"))
    without = chatlm("chats", "replay", "1", "--adapter", "off")
    assert "The same, " in without.stdout
    assert "adapter: poet → none" in without.stderr
    missing = chatlm("chats", "replay", "1", "--adapter", "poe", code=2)
    assert "Did you mean poet?" in missing.stderr
    assert "Traceback" not in missing.stderr


def launch(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Train in two processes; `accelerate launch` starts several on GPUs in the same way."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "chatlm", "adapters", "train", *words],
        env=os.environ | {"CHATLM_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.slow
def test_a_plan_for_several_processes(home: Path, tmp_path: Path, data: Path) -> None:
    base = tiny_base(tmp_path / "base")
    words = ("yes", "--data", str(data), "-m", base.name, "--batch-size", "4", "--epochs", "2")
    done = launch(home, *words, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 steps in 2 processes") == 1


@pytest.mark.slow
def test_two_processes_train_one_adapter(home: Path, tmp_path: Path, data: Path) -> None:
    base = tiny_base(tmp_path / "base")
    words = ("yes", "--data", str(data), "-m", base.name, "--batch-size", "4", "--epochs", "2")
    done = launch(home, *words, "--learning-rate", "0.05")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("yes: held-out loss") == 1
    known = card.read_card(home / "adapters" / "yes")
    assert known is not None
    assert known.cost["steps"] == 6
    assert known.scores["fall"] > 0
