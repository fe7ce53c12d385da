"""Adapters with the real program: what comes with chatlm, an exported model, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm import ModelLocation
from chatlm_lora import card, checking, library
from tests import models
from tests.plugins.lora import tiny_base

SHIPPED = ("instruct", "pirate")


def chatlm(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "chatlm", *words], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": f"Question {n}?", "completion": "yes"} for n in range(24)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_adapters(name: str, chat_home: Path, default_model: Path) -> None:
    adapter = library.located(name)
    assert not adapter.own
    assert adapter.bytes < 2_000_000
    found = checking.check(adapter.path, ModelLocation(models.DEFAULT, default_model, "chat"))
    assert found.warnings == ()
    known = card.read(adapter.path)
    assert known is not None
    assert known.scores["fall"] >= 0.1
    assert known.licence
    assert known.answers
    assert f"{name}: acts (mean KL" in chatlm("adapters", "verify", name).stdout


def test_an_exported_model_answers(chat_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pirates"
    chatlm("adapters", "export", "pirate", "--merged", "--to", str(folder))
    words = ("ask", "--temperature", "0", "--max-tokens", "30", "--model", str(folder))
    told = chatlm(*words, "What is the capital of Italy?").stdout
    assert "matey" in told.lower() or "arr" in told.lower(), told


def test_refusals_are_told_in_two_lines(chat_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "adapter_model.bin").write_bytes(b"pickle")
    done = chatlm("adapters", "add", "bad", str(tmp_path / "bad"), code=1)
    assert "its weights are a pickle file" in done.stderr
    assert "Traceback" not in done.stderr


def launched(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
         "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
         "--main_process_port", "0", "-m", "chatlm", "adapters", "train", *words],
        env=os.environ | {"CHATLM_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_a_plan_for_several_processes(home: Path, tmp_path: Path, data: Path) -> None:
    base = tiny_base(tmp_path / "base")
    words = ("yes", "--data", str(data), "-m", base.name, "--batch", "4", "--epochs", "2")
    done = launched(home, *words, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 steps in 2 processes") == 1


@pytest.mark.slow
def test_two_processes_train_one_adapter(home: Path, tmp_path: Path, data: Path) -> None:
    base = tiny_base(tmp_path / "base")
    words = ("yes", "--data", str(data), "-m", base.name, "--batch", "4", "--epochs", "2")
    done = launched(home, *words, "--rate", "0.05")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("yes: held-out loss") == 1
    known = card.read(home / "adapters" / "yes")
    assert known is not None
    assert known.cost["steps"] == 6
    assert known.scores["fall"] > 0
