"""Recurrent layers: drafts are dropped exactly, and chats stay warm, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import chatlm
from chatlm.engines.batching import stream_many
from chatlm.engines.devices import Placement
from chatlm.engines.kv_layout import MAX_STATES
from chatlm.engines.load import load
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.recurrent_state import RecurrentState, StateShape
from chatlm.engines.prompt_cache import CachedPrompt, decode_batch
from chatlm.types.events import Delta, PromptReady
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.engine import tiny
from tests.engine.test_native import native_model
from tests.gguf_files import make_folder, save_gguf
from tests.plugins import llamacpp

VARIANTS = ["lfm2", "qwen3.5", "granite 4"]

IDS = [(37 * number) % 200 for number in range(700)]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativeModel:
    """In bfloat16, where a different order of computation gives different bits."""
    folder = tiny.save(tmp_path_factory.mktemp("recurrent"), request.param)
    return native_model(folder, torch.bfloat16, "int8")


def test_a_draft_that_is_dropped_changes_no_bit(model: NativeModel) -> None:
    plain, drafted = model.new_cache(), model.new_cache()
    for cache in (plain, drafted):
        cache.prefill(IDS[:70])
    expected = torch.cat([plain.decode([token]) for token in IDS[70:110]])
    made, at = [], 70
    for drafts, kept in [(0, 1), (3, 1), (4, 3), (0, 1), (15, 16), (2, 2), (7, 5), (0, 1), (9, 10)]:
        rows = drafted.decode([*IDS[at : at + kept], *range(drafts + 1 - kept)])
        at += kept
        made.append(rows[:kept])
        assert drafted.truncate(at) == at
    assert torch.equal(torch.cat(made), expected[: at - 70])


def test_a_prompt_after_a_draft_sees_the_tokens_that_were_kept(model: NativeModel) -> None:
    plain, drafted = model.new_cache(), model.new_cache()
    for token in IDS[:10]:
        plain.decode([token])
    drafted.decode([IDS[0]])
    drafted.decode([*IDS[1:10], 5, 6, 7])
    assert drafted.truncate(10) == 10
    assert torch.equal(drafted.prefill(IDS[10:40]), plain.prefill(IDS[10:40]))


def test_a_sequence_goes_back_to_the_end_of_a_block(model: NativeModel) -> None:
    fresh, cache = model.new_cache(), model.new_cache()
    for start, end in [(0, 64), (64, 128), (128, 170)]:
        cache.prefill(IDS[start:end])
    cache.decode([1, 2, 3])
    assert cache.truncate(150) == 128
    fresh.prefill(IDS[:64])
    fresh.prefill(IDS[64:128])
    assert torch.equal(cache.prefill(IDS[300:350]), fresh.prefill(IDS[300:350]))
    assert torch.equal(cache.decode([4, 5]), fresh.decode([4, 5]))
    assert cache.truncate(60) == 0
    fresh = model.new_cache()
    assert torch.equal(cache.prefill(IDS[:20]), fresh.prefill(IDS[:20]))


def test_a_longer_prompt_reads_only_what_is_new(model: NativeModel) -> None:
    fresh, cached = CachedPrompt(model), CachedPrompt(model)
    longer = [*IDS[:600], *range(90)]
    list(fresh.prefill(longer))
    list(cached.prefill(IDS[:620]))
    for token in (1, 2, 3):
        decode_batch(model, [cached], [[token]])
    assert cached.reuse_prefix(longer) == 576
    assert list(cached.prefill(longer)) == [640, 690]
    assert torch.equal(cached.logits, fresh.logits)


def test_copies_of_states_are_few_and_lie_closer_together_at_the_end() -> None:
    state = RecurrentState([StateShape((2, 5), (3, 4, 6)), StateShape((3, 7))])
    for length in range(64, 6401, 64):
        state.buffer.fill_(length)
        state.length = length
        state.save_checkpoint()
    kept = state.checkpoints
    assert len(kept) == MAX_STATES
    assert kept[-2:] == (6336, 6400)
    gaps = [end - start for start, end in zip((0, *kept), kept, strict=False)]
    assert gaps == sorted(gaps, reverse=True)
    assert state.truncate(kept[2] + 1) == kept[2]
    assert state.checkpoints == kept[:3]
    assert all(bool((layer.window == kept[2]).all()) for layer in state.layers)
    assert state.truncate(10) == 0
    assert not state.buffer.any()


@pytest.fixture(scope="module", params=["lfm2", "qwen35", "granitehybrid"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalEngine]:
    folder = make_folder(save_gguf(tmp_path_factory.mktemp("engine") / "tiny.gguf", request.param))
    placement = Placement({"": "cpu"}, torch.bfloat16)
    opened = LocalEngine(
        "tiny", load("tiny", folder, placement, "native"), chatlm.load_tokenizer("tiny", folder)
    )
    yield opened
    opened.close()


def turns(count: int) -> tuple[Message, ...]:
    return tuple(
        Message("assistant" if number % 2 else "user", f"Words of message {number}. " * 8)
        for number in range(count)
    )


def reply(engine: LocalEngine, request: Request) -> tuple[str, int]:
    """Its text, and the cached tokens."""
    events = list(engine.stream(request))
    assert isinstance(events[0], PromptReady)
    text = "".join(event.text for event in events if isinstance(event, Delta))
    return text, events[0].cached_tokens


def test_a_seed_gives_the_same_text_warm_cold_and_in_a_batch(engine: LocalEngine) -> None:
    sampling = Sampling(temperature=0.9, seed=7, max_tokens=24)
    first, second = Request(turns(1), sampling), Request(turns(3), sampling)
    third = Request((*turns(2), Message("user", "Words of message 0. " * 4)), sampling)
    cold = []
    for request in (first, second, third):
        engine._prompt_cache.clear()
        cold.append(reply(engine, request)[0])
    engine._prompt_cache.clear()
    assert reply(engine, first)[0] == cold[0]
    list(engine.read_ahead(Request(turns(2), sampling)))
    text, cached = reply(engine, second)
    assert text == cold[1]
    assert cached >= 256
    assert reply(engine, third)[0] == cold[2]
    texts = ["", "", ""]
    for index, event in stream_many(engine, [first, second, third]):
        if isinstance(event, Delta):
            texts[index] += event.text
    assert texts == cold


@llamacpp.needs_llamacpp
@pytest.mark.parametrize("variant", ["lfm2", "qwen35", "qwen35moe", "granitehybrid"])
def test_a_file_has_the_logits_of_llama_cpp(tmp_path: Path, variant: str) -> None:
    path = llamacpp.save(tmp_path, variant)
    exact = Placement({"": "cpu"}, torch.float32)
    own = load("tiny", make_folder(path), exact, "native").new_cache()
    other = llamacpp.open_model(path, **llamacpp.EXACT).new_cache()
    rows = []
    for cache in (own, other):
        logits = [cache.prefill(IDS[:100]), *(cache.decode([token])[0] for token in IDS[100:120])]
        assert cache.truncate(100) in (0, 100)
        if cache is other:
            cache.truncate(0)
            cache.prefill(IDS[:100])
        logits += [cache.prefill(IDS[200:240]), cache.decode([3])[0]]
        rows.append(torch.stack(logits).log_softmax(-1))
    assert (rows[1].exp() * (rows[1] - rows[0])).sum(-1).max() < 1e-3
