"""Kills while a chat's KV cache is written: nothing wrong is ever read."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from chatlm.engines.prompt_cache import CachedPrompt
from chatlm.engines.saved_caches import SavedCaches
from tests.engine import tiny
from tests.engine.test_native import native_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is copied while it is idle"),
]

KILLS = 50

IDS = torch.randint(3, 200, (3000,), generator=torch.Generator().manual_seed(1)).tolist()


def write_forever(prompts: Sequence[CachedPrompt], folder: Path) -> None:
    """Save longer and longer prompts of a chat, delete the files, and begin again."""
    torch.set_num_threads(1)
    while True:
        for cached in prompts:
            list(SavedCaches("x", 10**9).save(folder, cached, ""))
        for path in folder.iterdir():
            path.unlink()


@pytest.mark.parametrize("variant", ["qwen3", "gemma 3", "granite 4"])
def test_no_kill_leaves_anything_wrong(tmp_path: Path, variant: str) -> None:
    saved = tiny.save(tmp_path / "model", variant, max_position_embeddings=4096)
    model, folder = native_model(saved, torch.bfloat16, "int8"), tmp_path / "7"
    prompts = []
    for length in (1100, 2100, len(IDS)):
        cached = CachedPrompt(model)
        list(cached.prefill(IDS[:length]))
        prompts.append(cached)
    expected = prompts[-1].logits
    context = multiprocessing.get_context("fork")
    chance = random.Random(1)
    found, parts = set(), 0
    for _ in range(KILLS):
        process = context.Process(target=write_forever, args=(prompts, folder), daemon=True)
        process.start()
        time.sleep(chance.uniform(0.005, 0.15))
        process.kill()
        process.join()
        parts += len(list(folder.glob(".part-*")))
        again = CachedPrompt(model)
        SavedCaches("x", 10**9).load(folder, again, IDS, "")
        found.add(again.reuse_prefix(IDS))
        list(again.prefill(IDS))
        assert torch.equal(again.logits, expected)
    assert len(found) > 1
    assert parts  # some kills came while a file was written
