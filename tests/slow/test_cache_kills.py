"""Kills while a chat's KV cache is written: nothing wrong is ever read."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from chatlm.engines.native.model import NativeModel
from chatlm.engines.prompt_cache import CachedPrompt
from chatlm.engines.saved_caches import SavedCaches
from tests.engine import tiny
from tests.engine.test_native import native_model

pytestmark = pytest.mark.slow

KILLS = 50

IDS = torch.randint(3, 200, (3000,), generator=torch.Generator().manual_seed(1)).tolist()

LENGTHS = (1100, 2100, 2900)

WRITER = """
import shutil, sys
from pathlib import Path
import torch
from chatlm.engines.prompt_cache import CachedPrompt
from chatlm.engines.saved_caches import SavedCaches
from tests.slow.test_cache_kills import IDS, LENGTHS, open_model

torch.set_num_threads(1)
model, folder = open_model(Path(sys.argv[1])), Path(sys.argv[2])
prompts = []
for length in LENGTHS:
    cached = CachedPrompt(model)
    list(cached.prefill(IDS[:length]))
    prompts.append(cached)
print("ready", flush=True)
while True:
    for cached in prompts:
        list(SavedCaches("x", 10**9).save(folder, cached, ""))
    for path in folder.iterdir():
        path.unlink()
"""


def open_model(folder: Path) -> NativeModel:
    return native_model(folder, torch.bfloat16, "int8")


def test_no_kill_leaves_anything_wrong(tmp_path: Path) -> None:
    saved = tiny.save(tmp_path / "model", "qwen3", max_position_embeddings=4096)
    model, folder = open_model(saved), tmp_path / "7"
    fresh = CachedPrompt(model)
    list(fresh.prefill(IDS))
    found = set()
    for number in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(saved), str(folder)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(random.Random(number).uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        cached = CachedPrompt(model)
        SavedCaches("x", 10**9).load(folder, cached, IDS, "")
        found.add(cached.reuse_prefix(IDS))
        list(cached.prefill(IDS))
        assert torch.equal(cached.logits, fresh.logits)
        for path in folder.glob("*.safetensors"):  # each that appeared is whole
            assert len(path.read_bytes()) > 10_000
    assert len(found) > 1
