"""Blocks of several prompts are read at once, with the bits of each read alone."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from chatlm.engines.native import prompt_blocks
from chatlm.engines.native.forward import run_to_end
from chatlm.engines.native.model import NativeCache, NativeModel
from tests.engine import adapter_files, tiny
from tests.engine.test_native import native_model, random_ids


@pytest.fixture(scope="module", params=["llama grouped", "gemma 4"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture
def model(folder: Path) -> NativeModel:
    return native_model(folder, torch.bfloat16, "bf16")


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[list[int]]:
    ids = random_ids(folder)
    return [ids[:70], ids[70:75], ids[20:21], ids[40:90]]


def begin(cache: NativeCache, ids: list[int]) -> Generator[None, None, torch.Tensor]:
    """Read to the first pause, where the block waits."""
    reading = cache.prefill_in_parts(ids)
    next(reading)
    return reading


def read_and_reply(model: NativeModel, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Read each prompt alone; return the logits after it and after one more token."""
    rows = []
    for ids in prompts:
        cache = model.new_cache()
        rows.append(torch.stack([cache.prefill(ids), cache.decode([5])[0]]))
    return rows


def finish(cache: NativeCache, reading: Generator[None, None, torch.Tensor]) -> torch.Tensor:
    return torch.stack([run_to_end(reading), cache.decode([5])[0]])


def assert_same(made: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert all(map(torch.equal, made, expected))


def test_who_goes_on_first_reads_all_that_wait(
    model: NativeModel, prompts: list[list[int]]
) -> None:
    expected = read_and_reply(model, prompts)
    caches = [model.new_cache() for _ in prompts]
    readings = list(map(begin, caches, prompts))
    run_to_end(readings[2])
    for reading in (readings[0], readings[1], readings[3]):
        with pytest.raises(StopIteration):
            next(reading)
    made = [cache.decode([5])[0] for cache in caches]
    assert_same(made, [rows[1] for rows in expected])


def test_each_may_advance_the_others(model: NativeModel, prompts: list[list[int]]) -> None:
    expected = read_and_reply(model, prompts)
    caches = [model.new_cache() for _ in prompts]
    readings = list(map(begin, caches, prompts))
    for reading in (readings[1], readings[3], readings[1]):
        next(reading)
    assert_same(list(map(finish, caches, readings)), expected)


def test_a_prompt_that_is_given_up_leaves_the_others(
    model: NativeModel, prompts: list[list[int]]
) -> None:
    expected = read_and_reply(model, prompts)
    caches = [model.new_cache() for _ in prompts]
    readings = list(map(begin, caches, prompts))
    readings[3].close()
    next(readings[0])
    readings[0].close()
    assert_same(list(map(finish, caches[1:3], readings[1:3])), expected[1:3])


def test_after_an_error_the_others_begin_again(
    model: NativeModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_and_reply(model, prompts)
    caches = [model.new_cache() for _ in prompts]
    readings = list(map(begin, caches, prompts))
    next(readings[0])

    def fail(*arguments: Any) -> torch.Tensor:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(model.decoder.kernel.functions, "attend_prompt", fail)  # type: ignore[attr-defined]
        with pytest.raises(MemoryError):
            next(readings[0])
    assert_same(list(map(finish, caches[1:], readings[1:])), expected[1:])


def test_adapters_and_long_blocks_are_read_apart(
    folder: Path, model: NativeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = random_ids(folder)[:70]
    adapted = model.load_adapter(adapter_files.save(tmp_path, folder, strength=0.5))
    monkeypatch.setattr(prompt_blocks, "MAX_TOKENS", 100)
    caches = [model.new_cache(), adapted.new_cache(), model.new_cache()]
    expected = [
        type(cache).prefill(fresh, ids)
        for cache, fresh in zip(
            caches, [model.new_cache(), adapted.new_cache(), model.new_cache()], strict=True
        )
    ]
    readings = [begin(cache, ids) for cache in caches]
    run_to_end(readings[0])
    for reading, logits in zip(readings[1:], expected[1:], strict=True):
        next(reading)
        assert torch.equal(run_to_end(reading), logits)
    assert not torch.equal(expected[0], expected[1])
