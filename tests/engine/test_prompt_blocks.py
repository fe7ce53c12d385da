"""Blocks of several prompts are read at once, with the bits of each read alone."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from chatlm.engines.devices import Placement
from chatlm.engines.load import load
from chatlm.engines.native import prompt_blocks
from chatlm.engines.native.forward import prefill_together, run_to_end
from chatlm.engines.native.model import NativeAdaptedModel, NativeCache, NativeModel
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


def test_a_cache_that_grew_while_it_decoded_takes_what_another_has_read(
    folder: Path, model: NativeModel
) -> None:
    ids = random_ids(folder)
    source, cache = model.new_cache(), model.new_cache()
    source.prefill(ids[:70])
    with torch.inference_mode():
        cache._kv_cache.reserve(200)
    made = finish(cache, begin(cache, ids[:90]))
    assert_same([made], read_and_reply(native_model(folder, torch.bfloat16, "bf16"), [ids[:90]]))


def test_adapters_and_long_blocks_are_read_apart(
    folder: Path, model: NativeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = random_ids(folder)
    prompts = [ids[:70], ids[:70], ids[5:75]]
    adapted = model.load_adapter(adapter_files.save(tmp_path, folder, strength=0.5))
    monkeypatch.setattr(prompt_blocks, "MAX_TOKENS", 100)
    models: tuple[Any, ...] = (model, adapted, model)
    expected = [
        own.new_cache().prefill(own_ids) for own, own_ids in zip(models, prompts, strict=True)
    ]
    readings = [
        begin(own.new_cache(), own_ids) for own, own_ids in zip(models, prompts, strict=True)
    ]
    run_to_end(readings[0])
    for reading, logits in zip(readings[1:], expected[1:], strict=True):
        next(reading)
        assert torch.equal(run_to_end(reading), logits)
    assert not torch.equal(expected[0], expected[1])


# --- what prompts have in common --------------------------------------------------------------


@pytest.fixture(params=["auto", "int8"])
def shared_model(folder: Path, request: pytest.FixtureRequest) -> NativeModel:
    placement = Placement({"": "cpu"}, torch.bfloat16)
    model = load("tiny", folder, placement, "native", "bf16", request.param)
    assert isinstance(model, NativeModel)
    return model


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """For each call that reads blocks, how many tokens it reads of each."""
    counts = []

    def count(*arguments: Any) -> Any:
        counts.append([len(part.ids) for part in arguments[2]])
        return prefill_together(*arguments)

    monkeypatch.setattr(prompt_blocks, "prefill_together", count)
    return counts


def alone(model: NativeModel | NativeAdaptedModel, *blocks: list[int]) -> torch.Tensor:
    """What `finish` returns after the last block, where no other cache has any of it."""
    assert model.prompt_blocks is not None
    assert not list(model.prompt_blocks._caches)
    cache = model.new_cache()
    for ids in blocks:
        logits = cache.prefill(ids)
    return torch.stack([logits, cache.decode([5])[0]])


@pytest.mark.parametrize("adapted", [False, True], ids=["plain", "adapted"])
def test_a_beginning_is_read_once_for_all_prompts(
    shared_model: NativeModel,
    folder: Path,
    tmp_path: Path,
    parts: list[list[int]],
    adapted: bool,
) -> None:
    ids = random_ids(folder)
    model: NativeModel | NativeAdaptedModel = shared_model
    if adapted:
        model = shared_model.load_adapter(adapter_files.save(tmp_path, folder, strength=0.5))
    prompts = [ids[:40], [*ids[:30], *ids[60:70]], ids[:40], [*ids[:30], *ids[60:65], 7], ids[9:20]]
    expected = [alone(model, own) for own in prompts]
    parts.clear()
    caches = [model.new_cache() for _ in prompts]
    readings = list(map(begin, caches, prompts))
    assert_same(list(map(finish, caches, readings)), expected)
    assert parts == [[40, 10, 1, 1, 11]]


def test_a_beginning_is_taken_from_a_prompt_that_was_read_before(
    shared_model: NativeModel, folder: Path, parts: list[list[int]]
) -> None:
    ids, model = random_ids(folder), shared_model
    longer = [*ids[:90], *ids[20:40]]
    expected = [alone(model, ids[:64], longer[64:]), alone(model, ids[:50], ids[60:70])]
    parts.clear()
    first = model.new_cache()
    first.prefill(ids[:64])
    first.prefill(ids[64:95])
    first.decode([9])  # what was decoded differs from what is read
    other = model.new_cache()
    other.prefill(longer[:64])
    assert torch.equal(finish(other, begin(other, longer[64:])), expected[0])
    assert parts == [[64], [31], [1], [20]]
    # a prompt that goes back and is read otherwise has nothing of before
    assert first.truncate(50) == 50
    assert torch.equal(finish(first, begin(first, ids[60:70])), expected[1])
    again = model.new_cache()
    del other
    assert torch.equal(finish(again, begin(again, longer[:64])), alone_after(model, longer[:64]))


def alone_after(model: NativeModel, ids: list[int]) -> torch.Tensor:
    """The same in a model that has read nothing."""
    fresh = NativeModel(model.config, model.weights, model.decoder, model.info, model.kv_format)
    return alone(fresh, ids)


def test_only_prompts_with_the_same_adapter_share_a_beginning(
    model: NativeModel, folder: Path, tmp_path: Path, parts: list[list[int]]
) -> None:
    settings: dict[str, dict[str, Any]] = {
        "first": {}, "second": {"seed": 2}, "stronger": {"lora_alpha": 32},
    }  # fmt: skip
    adapters = {
        name: adapter_files.save(tmp_path / name, folder, strength=0.5, **own)
        for name, own in settings.items()
    }
    ids = random_ids(folder)[:60]
    readers: list[NativeModel | NativeAdaptedModel] = [model]
    readers += map(model.load_adapter, adapters.values())
    expected = [alone(reader, ids) for reader in readers]
    for number, one in enumerate(expected):
        assert not any(torch.equal(one, other) for other in expected[:number])
    # an adapter whose file changed is loaded again
    readers.append(model.load_adapter(adapters["first"]))
    expected.append(expected[1])
    parts.clear()
    warm = [reader.new_cache() for reader in readers]
    assert_same(list(map(finish, warm, [begin(cache, ids) for cache in warm])), expected)
    assert parts == [[60]] * len(readers)
    parts.clear()
    again = [reader.new_cache() for reader in readers]
    assert_same(list(map(finish, again, [begin(cache, ids) for cache in again])), expected)
    assert parts == [[1]] * len(readers)


def test_tokens_that_were_decoded_are_not_taken_for_a_prompt(
    shared_model: NativeModel, folder: Path, parts: list[list[int]]
) -> None:
    ids, model = random_ids(folder), shared_model
    first = model.new_cache()
    first.prefill(ids[:20])
    for token in ids[20:30]:
        first.decode([token])
    first.prefill(ids[30:40])
    second = model.new_cache()
    assert torch.equal(finish(second, begin(second, ids[:40])), alone_after(model, ids[:40]))
    assert parts[:3] == [[20], [10], [20]]
