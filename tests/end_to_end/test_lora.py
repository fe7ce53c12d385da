"""Adapters with the real program."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from chatlm import paths
from chatlm.store import Store
from tests.engine import adapter_files


def chatlm(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "chatlm", *words], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def test_refusals_are_told_in_two_lines(chat_home: Path, tmp_path: Path) -> None:
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
    assert "adapter: none then, poet now" in changed["notes"]
    assert changed["replay"]["text"] != changed["original"]["text"]
    with Store(paths.database()) as store:
        reply = store.conversation(1).turns[0].reply
        assert reply is not None
        made_by = store.provenance(reply.id)
        assert made_by is not None
        store.save_provenance(reply.id, dataclasses.replace(made_by, adapter="poet"))
    without = chatlm("chats", "replay", "1", "--adapter", "off")
    assert "The same, " in without.stdout
    assert "adapter: poet then, none now" in without.stderr
    missing = chatlm("chats", "replay", "1", "--adapter", "poe", code=2)
    assert "Did you mean poet?" in missing.stderr
    assert "Traceback" not in missing.stderr
