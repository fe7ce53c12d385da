"""llama.cpp computes logits and keeps KV caches as the other decoders do."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import chatlm
from chatlm import (
    Delta,
    Finished,
    LocalEngine,
    Message,
    ModelError,
    Request,
    Sampling,
    StopReason,
    Unsupported,
)
from chatlm_llamacpp.offload import expert_patterns, layers_that_fit
from chatlm_llamacpp.settings import Settings
from tests.engine import adapter_files
from tests.plugins import llamacpp
from tests.plugins.llamacpp import EXACT, needs_llamacpp, open_model, save

IDS = [(37 * index) % 300 for index in range(150)]
"""Some tokens, in more than two chunks."""

QUANTIZED = {r"(attn_(q|k|v|output)|ffn_(up|down|gate)|token_embd|output)\.weight": "Q8_0"}
"""Matrices with which llama.cpp computes the same for one sequence as for several."""


def assert_same_odds(logits: Tensor, expected: Tensor, divergence: float = 1e-3) -> None:
    """Compare the next token's probabilities; llama.cpp rounds while it computes."""
    likely, unlikely = expected.log_softmax(-1), logits[:, : expected.shape[1]].log_softmax(-1)
    assert (likely.exp() * (likely - unlikely)).sum(-1).max() < divergence


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[LocalEngine]:
    opened = llamacpp.open_engine(tiny)
    yield opened
    opened.close()


@needs_llamacpp
@pytest.mark.parametrize(
    "variant", ["llama", "llama tied", "qwen3", "qwen3moe", "gemma3", "lfm2", "internlm2"]
)
def test_logits_are_those_of_transformers(tmp_path: Path, variant: str) -> None:
    path = save(tmp_path, variant)
    cache = open_model(path, **EXACT).new_cache()
    logits = [cache.prefill(IDS[:140]), *(cache.decode([token])[0] for token in IDS[140:])]
    assert_same_odds(torch.stack(logits), llamacpp.original_logits(path, IDS)[139:])


@needs_llamacpp
def test_a_truncated_cache_gives_the_same_logits_again(tiny: Path) -> None:
    cache = open_model(tiny).new_cache()
    cache.prefill(IDS[:100])
    first = cache.decode([7])
    cache.decode([8])
    cache.decode([9])
    assert cache.truncate(100) == 100
    assert torch.equal(cache.decode([7]), first)
    assert cache.truncate(0) == 0
    cache.prefill(IDS[:100])
    assert torch.equal(cache.decode([7]), first)


@needs_llamacpp
def test_caches_take_turns_in_one_context(tiny: Path) -> None:
    model = open_model(tiny)
    alone = [model.new_cache() for _ in range(3)]
    for number, cache in enumerate(alone):
        cache.prefill(IDS[number : 40 + number])
    expected = []
    for cache in alone:
        expected.append(cache.decode([5])[0])
        assert cache.truncate(40) == 40
    again = [cache.decode([5])[0] for cache in reversed(alone)]
    assert torch.equal(torch.stack(again[::-1]), torch.stack(expected))
    together = model.decode(alone[:2], [[6], [6]])
    assert together.shape == (2, 320)


@needs_llamacpp
def test_a_context_grows_with_its_sequences(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chatlm_llamacpp import sequences

    small = open_model(tiny).new_cache()
    expected = small.prefill(IDS), small.decode([3])
    monkeypatch.setattr(sequences, "FIRST_CAPACITY", 64)
    model = open_model(tiny)
    other, cache = model.new_cache(), model.new_cache()
    other.prefill(IDS[:50])
    kept = other.decode([3])
    assert other.truncate(50) == 50
    cache.prefill(IDS[:100])
    cache.prefill(IDS + IDS)
    assert cache.truncate(0) == 0
    assert torch.equal(cache.prefill(IDS), expected[0])
    assert torch.equal(cache.decode([3]), expected[1])
    assert torch.equal(other.decode([3]), kept)


@needs_llamacpp
def test_a_model_with_a_recurrent_state_reads_again(tmp_path: Path) -> None:
    path = save(tmp_path, "lfm2")
    model = open_model(path, parallel=4)
    assert model.max_step_tokens == 1
    cache = model.new_cache()
    cache.prefill(IDS[:100])
    cache.decode([7])
    assert cache.truncate(100) == 0
    engine = llamacpp.open_engine(path)
    texts = [generate(engine, request_of("Hi", max_tokens=5))[0] for _ in range(2)]
    assert texts[0] == texts[1]
    engine.close()


@needs_llamacpp
@pytest.mark.parametrize("full", [True, False])
def test_a_window_may_keep_all_tokens(tmp_path: Path, full: bool) -> None:
    path = save(tmp_path, "gemma3")
    model = open_model(path, swa_full=full, parallel=2)
    assert model.max_step_tokens == (2 if full else 1)
    cache = model.new_cache()
    cache.prefill(IDS)
    first = cache.decode([7])
    cache.prefill(IDS + IDS)
    assert cache.truncate(len(IDS)) == (len(IDS) if full else 0)
    if full:
        assert torch.equal(cache.decode([7]), first)


@needs_llamacpp
def test_several_caches_are_decoded_in_one_pass(tiny: Path) -> None:
    model = open_model(tiny, parallel=3, **EXACT)
    caches = [model.new_cache() for _ in range(3)]
    for number, cache in enumerate(caches):
        cache.prefill(IDS[number : 30 + number])
    logits = model.decode(caches, [[5], [6], [7]])
    originals = [
        llamacpp.original_logits(tiny, [*IDS[number : 30 + number], 5 + number])[-1]
        for number in range(3)
    ]
    assert_same_odds(logits, torch.stack(originals))


@needs_llamacpp
def test_an_interrupted_prefill_stops_after_a_chunk(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llama_cpp

    request = request_of("x" * 200, max_tokens=5)
    expected, _ = generate(engine, request)
    other = request_of("y" * 250, max_tokens=5)
    decode, calls = llama_cpp.llama_decode, 0

    def interrupted(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        status = decode(*arguments)
        if calls == 2:
            raise KeyboardInterrupt
        return int(status)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(llama_cpp, "llama_decode", interrupted)
        generate(engine, other)
    assert calls == 2
    text, end = generate(engine, other)
    assert end.usage.cached_tokens == 0
    assert generate(engine, other)[0] == text
    assert generate(engine, request)[0] == expected


@needs_llamacpp
@pytest.mark.parametrize("variant", ["llama", "qwen3", "gemma3"])
def test_an_adapter_adds_what_peft_adds(tmp_path: Path, variant: str) -> None:
    path = save(tmp_path, variant)
    original = path.parent / "original"
    settings: dict[str, Any] = {"use_rslora": True, "alpha_pattern": {"q_proj": 4}}
    adapter = adapter_files.save(tmp_path / "adapter", original, strength=0.1, **settings)
    model = open_model(path, **EXACT)
    adapted = model.load_adapter(adapter)
    plain, changed = model.new_cache(), adapted.new_cache()
    plain.prefill(IDS[:20])
    changed.prefill(IDS[:20])
    expected = [
        llamacpp.logits_of(adapter_files.reference(original, each), [*IDS[:20], 5])[-1]
        for each in (None, adapter)
    ]
    assert (expected[0] - expected[1]).abs().max() > 0.1
    got = model.decode([plain, changed], [[5], [5]])
    assert_same_odds(got, torch.stack(expected))
    adapted.close()
    assert plain.truncate(20) == 20
    assert_same_odds(plain.decode([5]), expected[0][None])


@needs_llamacpp
def test_a_gguf_adapter_is_used_as_it_is(tmp_path: Path, tiny: Path) -> None:
    from chatlm_llamacpp.lora import write_adapter

    peft = adapter_files.save(tmp_path / "peft", tiny.parent / "original", strength=0.1)
    folder = tmp_path / "gguf"
    folder.mkdir()
    write_adapter(peft, folder / "adapter.gguf", "llama", llamacpp.describe(tiny).find_linear)
    model = open_model(tiny)
    caches = [model.load_adapter(each).new_cache() for each in (peft, folder)]
    first, second = (cache.prefill(IDS[:20]) for cache in caches)
    assert torch.equal(first, second)


@needs_llamacpp
def test_an_adapter_that_llamacpp_cannot_compute_is_refused(tmp_path: Path, tiny: Path) -> None:
    model = open_model(tiny)
    original = tiny.parent / "original"
    dora = adapter_files.save(tmp_path / "dora", original, use_dora=True)
    with pytest.raises(Unsupported, match="use_dora"):
        model.load_adapter(dora)
    head = adapter_files.save(tmp_path / "norms", original, target_modules=["embed_tokens"])
    with pytest.raises(Unsupported, match="embed_tokens"):
        model.load_adapter(head)
    other = save(tmp_path / "other", "qwen3", changes={"embedding_length": 64})
    wrong = adapter_files.save(tmp_path / "wrong", other.parent / "original")
    config = json.loads((wrong / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    (wrong / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError):
        model.load_adapter(wrong)


@needs_llamacpp
def test_a_seed_gives_the_same_reply(engine: LocalEngine) -> None:
    text, end = generate(engine, request_of("Hello"))
    assert end.usage.completion_tokens == 20
    assert generate(engine, request_of("Hello"))[0] == text
    assert generate(engine, request_of("Hello", seed=2))[0] != text
    stopped, end = generate(engine, request_of("Hello", stop=(text[5:8],)))
    assert (stopped, end.stop_reason) == (text[:5], StopReason.STOP_STRING)


@needs_llamacpp
def test_a_longer_chat_reads_only_what_is_new(engine: LocalEngine) -> None:
    first = request_of("x" * 100)
    reply, end = generate(engine, first)
    messages = (*first.messages, Message("assistant", reply), Message("user", "More"))
    _, end = generate(engine, Request(messages, first.sampling))
    assert end.usage.cached_tokens == 64


@needs_llamacpp
@pytest.mark.parametrize("parallel", [1, 4])
def test_several_replies_are_those_of_one_at_a_time(tmp_path: Path, parallel: int) -> None:
    path = save(tmp_path, types=QUANTIZED)
    engine = llamacpp.open_engine(path, parallel=parallel)
    requests = [request_of(f"Question {number}") for number in range(6)]
    alone = [generate(engine, request)[0] for request in requests]
    texts = [""] * len(requests)
    for index, event in chatlm.stream_many(engine, requests):
        if isinstance(event, Delta):
            texts[index] += event.text
    assert texts == alone
    engine.close()


@needs_llamacpp
def test_experts_may_stay_in_main_memory(tmp_path: Path) -> None:
    path = save(tmp_path, "qwen3moe")
    expected = open_model(path).new_cache().prefill(IDS)
    kept = open_model(path, n_cpu_moe=1, cpu_tensors=(r"blk\.1\.attn",)).new_cache()
    assert_same_odds(kept.prefill(IDS)[None], expected[None])


@needs_llamacpp
def test_a_cache_in_eight_bits_is_close(tmp_path: Path) -> None:
    path = save(tmp_path, "llama wide")
    rows = [
        open_model(path, type_k=kind, type_v=kind).new_cache().prefill(IDS)
        for kind in ("f16", "q8_0")
    ]
    assert not torch.equal(*rows)
    assert_same_odds(rows[1][None], rows[0][None], 0.01)


@needs_llamacpp
def test_a_cache_format_that_does_not_fit_is_refused(tiny: Path) -> None:
    with pytest.raises(ModelError, match="K cache") as caught:
        open_model(tiny, type_k="q8_0")
    assert "type_k f16" in (caught.value.hint or "")


@needs_llamacpp
def test_damaged_and_unknown_files_are_refused(tmp_path: Path, tiny: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:-5000])
    model = llamacpp.describe(tiny)
    from dataclasses import replace

    from chatlm_llamacpp.model import open_model as open_file

    with pytest.raises(ModelError, match=r"cut\.gguf"):
        open_file(replace(model, path=cut), Settings())
    unknown = tmp_path / "unknown.gguf"
    unknown.write_bytes(tiny.read_bytes().replace(b"llama", b"lemur"))
    with pytest.raises(Unsupported, match="lemur"):
        open_file(replace(model, path=unknown), Settings())


@needs_llamacpp
def test_messages_go_to_the_log(
    tiny: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("chatlm")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.DEBUG, "chatlm")
    try:
        open_model(tiny).new_cache().prefill(IDS)
    finally:
        logger.removeHandler(caplog.handler)
    assert capfd.readouterr() == ("", "")
    assert any("n_ctx" in record.getMessage() for record in caplog.records)
    assert all(record.name == "chatlm.plugins.llamacpp" for record in caplog.records)


@needs_llamacpp
def test_closing_frees_the_model(tiny: Path) -> None:
    engine = llamacpp.open_engine(tiny)
    generate(engine, request_of("Hello"))
    model = engine._adapters.model
    owned = [model._model, model._context._context]  # type: ignore[attr-defined]
    frees = [each.free for each in owned]
    assert all(free.alive for free in frees)
    engine.close()
    del model, owned, engine
    gc.collect()
    assert not any(free.alive for free in frees)


def test_the_experts_of_the_first_layers_are_matched() -> None:
    import re

    first, second = expert_patterns(2)
    assert re.search(first, "blk.0.ffn_gate_exps.weight")
    assert not re.search(first, "blk.0.ffn_gate_shexp.weight")
    assert re.search(second, "blk.1.ffn_down_exps.weight")
    assert not re.search(second, "blk.11.ffn_down_exps.weight")


@pytest.mark.parametrize(
    ("free", "layers"), [(0, 0), (10, 0), (45, 2), (21 * 20, 20), (21 * 21, 21), (10**6, 21)]
)
def test_as_many_layers_as_fit_go_to_the_gpu(free: int, layers: int) -> None:
    assert layers_that_fit(free, 20 * 21, 20, 1) == layers


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="type_k must be one of f32, f16"):
        Settings(type_k="q9_0")


def request_of(text: str, **changes: Any) -> Request:
    sampling = Sampling(**{"temperature": 1.0, "seed": 1, "max_tokens": 20, **changes})
    return Request((Message("user", text),), sampling)


def generate(engine: LocalEngine, request: Request) -> tuple[str, Finished]:
    events = list(engine.stream(request))
    end = events[-1]
    assert isinstance(end, Finished)
    return "".join(event.text for event in events if isinstance(event, Delta)), end
