"""KV caches: growth, and the format of 8 bits in every decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatlm.engines.batching import stream_many
from chatlm.engines.devices import Placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.native import kv_cache as kv_cache_module
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.forward import prefill
from chatlm.engines.native.kv_cache import (
    GROUP,
    KVBuffer,
    KVCache,
    KVFormat,
    SequenceInput,
    kv_bytes_per_token,
    quantize_rows,
)
from chatlm.engines.native.model import NativeModel
from chatlm.engines.prompt_cache import CachedPrompt, block_ends
from chatlm.engines.speculative import PromptLookup
from chatlm.types.events import Delta, PromptReady
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.engine import tiny
from tests.engine.test_native import PROMPT, decoded_logits, divergence, native_model, random_ids
from tests.plugins.lora import tiny_base

FORMATS: tuple[KVFormat, ...] = get_args(KVFormat)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def int8_model(folder: Path, dtype: torch.dtype, form: Any) -> NativeModel:
    """Return a model with KV caches of 8 bits, see `native_model`."""
    model = native_model(folder, dtype, form)
    model.kv_format = "int8"
    return model


def restored(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    groups: torch.Tensor = codes.float().unflatten(-1, (-1, GROUP))
    return (groups * scales.float().unsqueeze(-1)).flatten(-2)


def test_each_group_is_rounded_to_its_own_127_levels() -> None:
    rows = torch.randn(3, 5, 80) * torch.logspace(-6, 4, 5)[:, None]
    codes, scales = quantize_rows(rows)
    assert (codes.shape, scales.shape) == ((3, 5, 96), (3, 5, 3))
    assert not codes[..., 80:].any()
    largest = torch.nn.functional.pad(rows, (0, 16)).unflatten(-1, (-1, GROUP)).abs().amax(-1)
    limit = (0.51 * largest / 127).repeat_interleave(GROUP, -1)[..., :80]
    assert ((restored(codes, scales)[..., :80] - rows).abs() <= limit).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_group_with_nan_or_infinity_becomes_nan(value: float) -> None:
    rows = torch.ones(2, 64)
    rows[0, 40] = value
    made = restored(*quantize_rows(rows))
    assert made[0, 32:].isnan().all()
    torch.testing.assert_close(made[0, :32], rows[0, :32], rtol=0.01, atol=0)
    torch.testing.assert_close(made[1], rows[1], rtol=0.01, atol=0)


@pytest.mark.parametrize("form", ["bf16", "steps", None], ids=["kernel", "steps", "torch"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_nan_and_infinity_are_not_hidden_by_a_cache_of_8_bits(
    tmp_path: Path, form: Any, value: str
) -> None:
    """A later token attends to keys and values that are not numbers."""
    folder = tiny.save(tmp_path, "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][7, 3] = float(value)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    cache = int8_model(folder, torch.bfloat16, form).new_cache()
    assert not cache.decode([8]).isnan().any()
    cache.decode([7])
    assert cache.decode([8]).isnan().all()


@pytest.mark.parametrize("variant", tiny.CONFIGS)
@pytest.mark.parametrize("form", ["bf16", "steps"], ids=["kernel", "steps"])
def test_a_cache_of_8_bits_rounds_only_keys_and_values(
    tmp_path: Path, variant: str, form: Any
) -> None:
    folder = tiny.save(tmp_path, variant)
    ids = random_ids(folder)
    model = int8_model(folder, torch.float32, form)
    kv_cache, rope = KVCache(model.config, torch.float32, kv_format="int8"), model.ropes(512)
    for block in (ids[:64], ids[64:PROMPT]):
        attend = model.decoder.prompt_attention
        prefill(model.config, model.weights, kv_cache, block, rope, attend=attend)
    expected = torch.stack(
        [prefill(model.config, model.weights, kv_cache, [token], rope) for token in ids[PROMPT:]]
    )
    made = decoded_logits(model, ids)
    # a value at the edge of a level may be rounded to either
    torch.testing.assert_close(made, expected, rtol=0, atol=0.02 * float(expected.std()))
    assert divergence(expected, made) < 1e-5
    exact = decoded_logits(native_model(folder, torch.float32, form), ids)
    assert 0 < divergence(exact, made) < 0.1


@pytest.mark.parametrize("form", ["bf16", "int8", None], ids=["kernel", "int8", "torch"])
def test_decoders_in_bfloat16_read_a_cache_of_8_bits(tmp_path: Path, form: Any) -> None:
    folder = tiny.save(tmp_path, "llama grouped")
    ids = random_ids(folder)
    true = decoded_logits(native_model(folder, torch.float32, "bf16"), ids)
    theirs = divergence(true, decoded_logits(native_model(folder, torch.bfloat16, form), ids))
    expected = decoded_logits(int8_model(folder, torch.float32, "bf16"), ids)
    made = decoded_logits(int8_model(folder, torch.bfloat16, form), ids)
    assert divergence(expected, made) < 3 * (theirs + divergence(true, expected))


def test_the_kernel_writes_the_codes_that_torch_writes(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "llama grouped")
    ids = random_ids(folder)[:80]
    buffers = []
    for form in ("bf16", None):
        cache = int8_model(folder, torch.float32, form).new_cache()
        for token in ids:
            cache.decode([token])
        buffers.append(cache.sequence_input([]).kv_cache.buffer)
    kernel, other = (buffer.layers[0] for buffer in buffers)
    assert kernel.scales is not None
    assert other.scales is not None
    codes = [each.kv[:, :, : len(ids)].int() for each in (kernel, other)]
    assert codes[0].any()
    assert int((codes[0] - codes[1]).abs().max()) <= 1
    assert float((codes[0] != codes[1]).float().mean()) < 1e-3
    torch.testing.assert_close(
        kernel.scales[:, :, : len(ids)], other.scales[:, :, : len(ids)], rtol=0.01, atol=0
    )


@pytest.mark.parametrize("kv_format", FORMATS)
@pytest.mark.parametrize("variant", ["llama", "llama grouped", "qwen3"])
def test_memory_per_token_is_what_the_cache_holds(
    tmp_path: Path, variant: str, kv_format: KVFormat
) -> None:
    config = read_config(tiny.save(tmp_path, variant))
    kv_cache = KVCache(config, torch.bfloat16, kv_format=kv_format)
    kv_cache.reserve(100)
    size = sum(
        layer.kv.nbytes + (layer.scales.nbytes if layer.scales is not None else 0)
        for layer in kv_cache.buffer.layers
    )
    assert size == kv_cache.capacity * kv_bytes_per_token(config, torch.bfloat16, kv_format)


def test_8_bits_take_about_half_the_memory(tmp_path: Path) -> None:
    config = read_config(tiny.save(tmp_path, "llama", head_dim=64))
    half, whole = (
        kv_bytes_per_token(config, torch.bfloat16, kv_format) for kv_format in ("int8", "auto")
    )
    assert half / whole == (1 + 2 / GROUP) / 2


@pytest.mark.parametrize("kv_format", FORMATS)
def test_a_kv_cache_grows_without_losing_tokens(tmp_path: Path, kv_format: KVFormat) -> None:
    config = read_config(tiny.save(tmp_path, "llama"))
    kv_cache = KVCache(config, torch.bfloat16, kv_format=kv_format)
    keys = torch.randn(3, 5, 14).bfloat16()
    kv_cache.reserve(5)
    before = [
        kv_cache.update(layer, keys + layer, keys - layer) for layer in range(len(config.layers))
    ]
    near = 0.02 if kv_format == "int8" else 0.0
    torch.testing.assert_close(before[2][0], keys + 2, rtol=0, atol=near)
    torch.testing.assert_close(before[1][1], keys - 1, rtol=0, atol=near)
    kv_cache.length = 5
    room = kv_cache.capacity
    kv_cache.reserve(room + 1)
    assert kv_cache.capacity > room
    more = torch.randn(3, 1, 14).bfloat16()
    for layer, (old_keys, old_values) in enumerate(before):
        new_keys, new_values = kv_cache.update(layer, more, more)
        assert torch.equal(new_keys[:, :5], old_keys)
        assert torch.equal(new_values[:, :5], old_values)
    for stored in kv_cache.buffer.layers:
        assert not stored.kv[..., 14:].any()
        assert not stored.kv[:, :, 6:].any()


def test_a_short_text_takes_no_memory_for_a_long_one(tmp_path: Path) -> None:
    kv_cache = KVCache(read_config(tiny.save(tmp_path, "llama")), torch.bfloat16)
    kv_cache.reserve(10)
    assert 10 < kv_cache.capacity <= 100
    kv_cache.reserve(1000)
    assert 1000 < kv_cache.capacity <= 1100
    kv_cache.reserve(kv_cache.capacity + 1)
    assert kv_cache.capacity > 1150, "growing by a few tokens at a time would copy all of it often"


def test_a_prompt_of_many_blocks_is_given_room_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = native_model(tiny.save(tmp_path, "llama"), torch.bfloat16, "auto")
    prompt = [n % 90 for n in range(600)]
    assert len(block_ends(len(prompt), "cpu")) > 2
    grown: list[int] = []
    allocate = KVCache._allocate

    def record(kv_cache: KVCache, capacity: int) -> KVBuffer:
        grown.append(capacity)
        return allocate(kv_cache, capacity)

    monkeypatch.setattr(KVCache, "_allocate", record)
    cached = CachedPrompt(model)
    assert [*cached.prefill(prompt)][-1] == len(prompt)
    assert [capacity >= len(prompt) for capacity in grown if capacity] == [True]


def test_caches_of_two_formats_are_refused_in_one_step(tmp_path: Path) -> None:
    model = native_model(tiny.save(tmp_path, "llama"), torch.bfloat16, "int8")
    caches = [KVCache(model.config, torch.bfloat16, kv_format=each) for each in FORMATS]
    with pytest.raises(ValueError, match="different formats"):
        model.decoder.decode([SequenceInput(cache, [1]) for cache in caches], model.ropes(64))


def test_replies_over_8_bits_are_the_same_warm_cold_alone_and_in_a_batch(tmp_path: Path) -> None:
    folder = tiny_base(tmp_path).folder
    engine = LocalEngine.from_folder(
        "tiny", folder, Placement({"": "cpu"}, torch.bfloat16), kv_cache="int8"
    )
    plain = LocalEngine.from_folder("tiny", folder, Placement({"": "cpu"}, torch.bfloat16))
    assert (engine.info.kv_cache, plain.info.kv_cache) == ("8-bit", "")
    question = Message("user", "The tide turns at six, and then at noon, and then at six. " * 3)
    sampling = Sampling(temperature=0.7, seed=3, max_tokens=40)
    wanted = [
        Request((question,), sampling),
        Request((question, Message("assistant", "Yes."), Message("user", "And then?")), sampling),
        Request(
            (Message("user", "aaaa bbbb aaaa bbbb "),), Sampling(temperature=0.0, max_tokens=60)
        ),
    ]

    def reply(request: Request, *, cold: bool) -> tuple[str, int]:
        if cold:
            engine._prompt_cache.clear()
        events = list(engine.stream(request))
        assert isinstance(events[0], PromptReady)
        return text_of(events), events[0].cached_tokens

    cold = [reply(request, cold=True)[0] for request in wanted]
    warm = [reply(request, cold=False) for request in wanted]
    assert [text for text, _ in warm] == cold
    assert warm[1][1] > 0
    together: dict[int, list[Any]] = {}
    for index, event in stream_many(engine, wanted):
        together.setdefault(index, []).append(event)
    assert [text_of(together[index]) for index in range(len(wanted))] == cold
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptLookup, "draft", lambda self, max_tokens: [])
        assert [reply(request, cold=True)[0] for request in wanted] == cold


def text_of(events: Sequence[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts the peak")
def test_a_kv_cache_gives_its_memory_back_while_it_grows(tmp_path: Path) -> None:
    config = read_config(tiny.save(tmp_path, "llama", head_dim=512, num_hidden_layers=16))
    kv_cache = KVCache(config, torch.float32)
    kv_cache.reserve(2048)
    for layer in kv_cache.buffer.layers:
        layer.kv.fill_(1.0)
    kv_cache.length = kv_cache.capacity
    held = sum(layer.kv.nbytes for layer in kv_cache.buffer.layers)
    assert held > 8 * kv_cache_module._AREA_BYTES, "otherwise this shows nothing"
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = peak_memory()
    kv_cache.reserve(kv_cache.capacity + 1)
    grown = sum(layer.kv.nbytes for layer in kv_cache.buffer.layers)
    assert peak_memory() - before < grown - held + held / 2, "twice the cache at once"
    assert all(layer.kv[:, :, : kv_cache.length].eq(1.0).all() for layer in kv_cache.buffer.layers)


def peak_memory() -> int:
    """Return the most bytes that this process has held at once."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
