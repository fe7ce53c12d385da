"""The native decoders compute what llama.cpp does from the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.engine.test_native import native_model
from tests.gguf_files import make_folder
from tests.plugins.llamacpp import EXACT, needs_llamacpp, open_model, save

IDS = [(37 * index) % 300 for index in range(150)]
"""Tokens of a chat of two turns, the first of which ends within a block."""

FIRST, BORDER, SECOND = 40, 64, 100
"""Tokens of the first turn's prompt, of a block, and of the second turn's prompt."""

VARIANTS = ["mixtral", "qwen2moe", "qwen3moe", "olmoe", "gpt-oss"]

MOST_DIVERGENCE = 1e-3
"""KL divergence of a token's odds in nats; llama.cpp rounds while it computes."""


@needs_llamacpp
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_in_32_bits_has_the_logits_of_llama_cpp(tmp_path: Path, variant: str) -> None:
    path = save(tmp_path, variant)
    folder = make_folder(path)
    if variant == "gpt-oss":
        round_yarn(folder)
    cache = native_model(folder, torch.float32, "stored").new_cache()
    theirs = open_model(path, **EXACT).new_cache()
    made, expected = [cache.prefill(IDS[:FIRST])], [theirs.prefill(IDS[:FIRST])]
    for token in IDS[FIRST : FIRST + 5]:
        made += cache.decode([token])
        expected += theirs.decode([token])
    assert cache.truncate(FIRST)
    assert theirs.truncate(FIRST)
    for block in (IDS[FIRST:BORDER], IDS[BORDER:SECOND]):
        made.append(cache.prefill(block))
        expected.append(theirs.prefill(block))
    for token in IDS[SECOND:]:
        made += cache.decode([token])
        expected += theirs.decode([token])
    own, true = torch.stack(made), torch.stack(expected)[:, : made[0].shape[-1]]
    own, true = own.log_softmax(-1), true.log_softmax(-1)
    assert float((true.exp() * (true - own)).sum(-1).max()) < MOST_DIVERGENCE


def round_yarn(folder: Path) -> None:
    """Round the ends of YaRN's ramp, as llama.cpp does also for gpt-oss."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["rope_parameters"]["truncate"] = True
    file.write_text(json.dumps(config))
