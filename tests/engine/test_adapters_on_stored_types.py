"""LoRA adapters act on matrices of every type as they are stored, and switch within a step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from chatlm.engines.native.forward import prefill
from chatlm.engines.native.kv_cache import KVCache
from chatlm.engines.native.lora import read_lora, with_lora
from chatlm.engines.native.weight_reader import read_weights, to_linear
from tests.engine import adapter_files
from tests.engine.test_gguf_tensors import TYPES
from tests.engine.test_native import random_ids
from tests.engine.test_stored_types import save_stored, stored_model

PROMPT = 40
"""Tokens that are prefilled; as many are decoded."""


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("kind", TYPES)
def test_prompts_and_tokens_have_the_logits_of_the_stored_numbers_and_the_adapter(
    tmp_path: Path, kind: str
) -> None:
    model = stored_model(save_stored(tmp_path, kind), kind, torch.float32)
    adapter = adapter_files.save(tmp_path / "adapter", tmp_path / "original", strength=0.3)
    exact = to_linear(read_weights(tmp_path, model.config), model.config, torch.float32)
    lora = read_lora(adapter, model.config, torch.float32, torch.device("cpu"))
    ids, rope = random_ids(tmp_path)[: 2 * PROMPT], model.ropes(512)

    def expected(weights: Any) -> torch.Tensor:
        kv_cache = KVCache(model.config, torch.float32)
        rows = [prefill(model.config, weights, kv_cache, ids[:PROMPT], rope)]
        rows += [prefill(model.config, weights, kv_cache, [each], rope) for each in ids[PROMPT:]]
        return torch.stack(rows)

    def computed(reader: Any) -> torch.Tensor:
        cache = reader.new_cache()
        first = cache.prefill(ids[:PROMPT])[None]
        return torch.cat([first, *(cache.decode([each]) for each in ids[PROMPT:])])

    plain, adapted = expected(exact), expected(with_lora(exact, lora))
    # random blocks of some types give large logits, so what matters is the adapter's effect
    near = 0.05 * float((adapted - plain).abs().max())
    assert near > 1e-3
    torch.testing.assert_close(computed(model), plain, rtol=0, atol=near)
    torch.testing.assert_close(computed(model.load_adapter(adapter)), adapted, rtol=0, atol=near)


@pytest.mark.parametrize("kind", TYPES)
def test_adapters_are_switched_from_one_sequence_to_the_next(tmp_path: Path, kind: str) -> None:
    model = stored_model(save_stored(tmp_path, kind), kind, torch.bfloat16)
    adapters = [
        adapter_files.save(
            tmp_path / name, tmp_path / "original", seed=number, strength=0.3, r=rank
        )
        for number, (name, rank) in enumerate((("first", 8), ("second", 3)))
    ]
    readers = [model, *map(model.load_adapter, adapters)]
    ids = random_ids(tmp_path)[: 2 * PROMPT]

    def begun(reader: Any) -> Any:
        cache = reader.new_cache()
        cache.prefill(ids[:PROMPT])
        return cache

    alone = [
        torch.cat([cache.decode([each]) for each in ids[PROMPT:]]) for cache in map(begun, readers)
    ]
    assert not torch.equal(alone[0], alone[1])
    assert not torch.equal(alone[1], alone[2])
    caches = [begun(reader) for reader in readers]
    steps = [model.decode(caches, [[each]] * len(caches)) for each in ids[PROMPT:]]
    for number, expected in enumerate(alone):
        assert torch.equal(torch.stack([step[number] for step in steps]), expected)
