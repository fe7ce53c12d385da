"""Chats stay warm, bit by bit, with windows, recurrent states and both, by transformers."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import architectures, tiny_architectures
from chatlm.engines import saved_caches
from chatlm.engines.batching import stream_many
from chatlm.engines.kv_layout import KEPT_BEHIND_WINDOW, MAX_STATES, read_kv_layout
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.prompt_cache import CachedPrompt, decode_batch
from chatlm.engines.transformers_cache import TransformersCache
from chatlm.engines.transformers_model import TransformersModel, load_model
from chatlm.types.events import Delta, Finished, PromptReady
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

FAMILIES = ["gemma3_text", "gpt_oss", "qwen3_5_text", "lfm2", "granitemoehybrid", "falcon_h1"]

IDS = torch.randint(3, 256, (3000,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    return open_tiny(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    return open_tiny(tmp_path_factory.mktemp("windows"), "gemma3_text")


def open_tiny(folder: Path, name: str) -> TransformersModel:
    tiny_architectures.save(folder, name)
    return TransformersModel(name, folder, architectures.FLOAT32)


def read(model: TransformersModel, cached: CachedPrompt, prompt: list[int]) -> torch.Tensor:
    """Return the logits after a prompt and after each of three tokens."""
    list(cached.prefill(prompt))
    decoded = [decode_batch(model, [cached], [[token]])[0] for token in (5, 6, 7)]
    return torch.cat([cached.logits[None], *decoded])


def kept_lengths(cached: CachedPrompt) -> list[int]:
    assert isinstance(cached.cache, TransformersCache)
    return [each.length for each in cached.cache._checkpoints._taken]


def test_a_chat_that_goes_on_or_back_gives_the_logits_of_a_new_one(
    model: TransformersModel,
) -> None:
    warm = CachedPrompt(model)
    edited = IDS[:1000] + IDS[1200:1290]
    for prompt, expected in (
        (IDS[:300], 0),
        (IDS[:420], 256),
        (IDS[:1300], 256),
        (edited, 768),
        (edited, len(edited)),
        (IDS[:700], 512),
    ):
        assert warm.reuse_prefix(prompt) == expected
        assert torch.equal(read(model, warm, prompt), read(model, CachedPrompt(model), prompt))


def test_a_seed_gives_the_same_text_warm_or_cold(model: TransformersModel, tmp_path: Path) -> None:
    name = model.module.config.model_type
    sampling = Sampling(temperature=1.0, seed=7, max_tokens=20)
    tiny_architectures.save(tmp_path, name)
    engine = LocalEngine.from_folder(name, tmp_path, architectures.FLOAT32, engine="transformers")
    with closing(engine):
        messages: tuple[Message, ...] = ()
        for number in range(3):
            messages = (*messages, Message("user", f"Fact {number} about the sea, please. " * 9))
            text, cached = reply(engine, messages, sampling)
            assert (cached > 0) == (number > 0)
            engine._prompt_cache.clear()
            assert reply(engine, messages, sampling) == (text, 0)
            messages = (*messages, Message("assistant", text))

            engine._prompt_cache.clear()
            ahead = [event.done for event in engine.read_ahead(Request(messages, sampling))]
            question = (*messages, Message("user", "And then?"))
            assert reply(engine, question, sampling)[1] == ahead[-1]  # nothing was read in vain


def test_a_seed_gives_the_same_text_in_a_batch_and_after_a_restart(
    model: TransformersModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_caches, "MIN_TOKENS", 64)
    name = model.module.config.model_type
    folder, chat = tmp_path / "model", tmp_path / "chat"
    tiny_architectures.save(folder, name)
    sampling = Sampling(temperature=1.0, seed=7, max_tokens=20)
    story = (Message("user", "A fact about the sea, please. " * 14),)
    longer = (*story, Message("assistant", "It is wide."), Message("user", "And how deep?"))
    requests = [Request(messages, sampling) for messages in (story, longer)]

    def open_engine() -> LocalEngine:
        return LocalEngine.from_folder(
            name, folder, architectures.FLOAT32, engine="transformers", chat_cache=10**9
        )

    with closing(open_engine()) as engine:
        cold = []
        for request in requests:
            engine._prompt_cache.clear()
            cold.append(reply(engine, request.messages, sampling)[0])
        texts = ["", ""]
        for index, event in stream_many(engine, requests):
            texts[index] += event.text if isinstance(event, Delta) else ""
        assert texts == cold
        list(engine.read_ahead(Request(longer[:2], sampling, cache_folder=chat)))
    with closing(open_engine()) as restarted:
        events = list(restarted.stream(Request(longer, sampling, cache_folder=chat)))
    assert isinstance(events[0], PromptReady)
    assert events[0].cached_tokens >= 256
    assert "".join(each.text for each in events if isinstance(each, Delta)) == cold[1]


def reply(
    engine: LocalEngine, messages: tuple[Message, ...], sampling: Sampling
) -> tuple[str, int]:
    """Return a reply and the number of tokens that were reused for it."""
    with closing(engine.stream(Request(messages, sampling))) as events:
        seen = list(events)
    assert isinstance(seen[0], PromptReady)
    assert isinstance(seen[-1], Finished)
    text = "".join(event.text for event in seen if isinstance(event, Delta))
    return text, seen[0].cached_tokens


def test_checkpoints_are_few_in_a_long_chat(model: TransformersModel) -> None:
    cached = CachedPrompt(model)
    for length in (1500, 1700, 2200, 2900):
        cached.reuse_prefix(IDS[:length])
        list(cached.prefill(IDS[:length]))
    lengths = kept_lengths(cached)
    assert lengths[-1] == 2900
    cache = cached.cache
    assert isinstance(cache, TransformersCache)
    layout = read_kv_layout(model.module.config.to_dict())
    held = [tensor for each in cache._checkpoints._taken for tensor in tensors_of(each)]
    held_bytes = sum(tensor.untyped_storage().nbytes() for tensor in held)
    states = MAX_STATES * 4 * layout.state_size
    assert 0 < held_bytes <= states + 4 * layout.numbers_in_checkpoints(2900)
    if has_states(model):
        assert len(lengths) == MAX_STATES
        assert 0 < lengths[0] < 2000  # for an edit far back
    else:
        assert lengths[0] > 2900 - KEPT_BEHIND_WINDOW - 100


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_of(each)
    elif dataclasses.is_dataclass(value):
        yield from tensors_of(vars(value))


def has_states(model: TransformersModel) -> bool:
    return model.module.config.model_type not in ("gemma3_text", "gpt_oss")


def test_states_are_copied_where_lengths_are_cropped(tmp_path: Path) -> None:
    model = open_tiny(tmp_path, "falcon_h1")
    cache = model.new_cache()
    cache.prefill(IDS[:64])
    (taken,) = cache._checkpoints._taken
    assert all("keys" not in state for state in taken.states.values())


@pytest.mark.parametrize("name", ["granitemoehybrid", "falcon_h1"])
def test_a_short_block_is_not_padded_to_a_long_scan(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """A turn with a short message would cost as much as 256 tokens."""
    tiny_architectures.save(tmp_path, name)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mamba_chunk_size": 256}))
    own = load_model(name, tmp_path, architectures.FLOAT32)
    expected = own(torch.tensor([IDS[:300]])).logits[0, -1]
    scanned = []
    scan = sys.modules[type(own).__module__].mamba2_chunk_scan

    def count(hidden_states: torch.Tensor, *arguments: Any, chunk_size: int, **others: Any) -> Any:
        scanned.append(-hidden_states.shape[1] // chunk_size * -chunk_size)
        return scan(hidden_states, *arguments, chunk_size=chunk_size, **others)

    model = TransformersModel(name, tmp_path, architectures.FLOAT32)
    monkeypatch.setattr(sys.modules[type(own).__module__], "mamba2_chunk_scan", count)
    cache = model.new_cache()
    cache.prefill(IDS[:256])
    assert set(scanned) == {256}
    scanned.clear()
    logits = cache.prefill(IDS[256:300])
    assert set(scanned) == {64}
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_an_edit_behind_what_windows_have_kept_reads_all_again(windows: TransformersModel) -> None:
    warm = CachedPrompt(windows)
    list(warm.prefill(IDS[:2000]))
    prompt = IDS[:600] + IDS[2000:2050]
    assert warm.reuse_prefix(prompt) == 0
    assert torch.equal(read(windows, warm, prompt), read(windows, CachedPrompt(windows), prompt))


def test_a_cache_goes_back_within_a_block_before_a_window_moves(
    windows: TransformersModel,
) -> None:
    cache = windows.new_cache()
    cache.prefill(IDS[:12])
    assert cache.truncate(7) == 7
    cache.prefill(IDS[7:40])  # past the window
    cache.decode(IDS[40:44])
    assert cache.truncate(42) == 40
    again = cache.prefill(IDS[40:60])
    fresh = windows.new_cache()
    fresh.prefill(IDS[:12])
    assert fresh.truncate(7) == 7
    fresh.prefill(IDS[7:40])
    assert torch.equal(again, fresh.prefill(IDS[40:60]))
    assert cache.truncate(6) == 0


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield
