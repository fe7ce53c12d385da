"""The real default model: replies, stop reasons, seeds and errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from chatlm.engines.devices import place_weights, resolve_placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.prompt_cache import CachedPrompt, block_ends, decode_batch
from chatlm.engines.stopping import EosStoppingCriteria
from chatlm.errors import ContextTooLong, EngineError, ModelError, OutOfMemoryError
from chatlm.types.events import Delta, EngineEvent, Finished, Prefill, PromptReady
from chatlm.types.messages import Message
from chatlm.types.replies import StopReason
from chatlm.types.requests import Request
from chatlm.types.sampling import DEFAULT_SAMPLING, Sampling

CAPITAL = (Message("user", "What is the capital of France?"),)
STORY = (Message("user", "Write a long story about a lighthouse."),)
GREEDY = Sampling(temperature=0.0, max_tokens=40)


@pytest.fixture(scope="module", params=["native", "transformers"])
def either(
    request: pytest.FixtureRequest, engine: LocalEngine, default_model: Path
) -> Iterator[LocalEngine]:
    """The default model, run natively and by transformers."""
    if request.param == "native":
        assert "transformers" not in engine.info.weights
        yield engine
        return
    slow = LocalEngine.from_folder(
        "default", default_model, resolve_placement("cpu"), engine="transformers"
    )
    assert "transformers" in slow.info.weights
    yield slow
    slow.close()


def run(engine: LocalEngine, request: Request) -> tuple[str, Finished, list[EngineEvent]]:
    events = list(engine.stream(request))
    assert isinstance(events[0], PromptReady)
    assert isinstance(events[-1], Finished)
    text = "".join(event.text for event in events if isinstance(event, Delta))
    return text, events[-1], events


def forget(engine: LocalEngine) -> None:
    engine._prompt_cache.clear()


def test_it_answers_and_ends_its_turn(either: LocalEngine) -> None:
    text, end, events = run(either, Request(CAPITAL, GREEDY))
    assert "Paris" in text
    assert "<|im_end|>" not in text
    assert end.stop_reason is StopReason.END
    deltas = [event for event in events if isinstance(event, Delta)]
    assert end.usage.completion_tokens == len(deltas)
    assert end.usage.prompt_tokens == either.count_tokens(CAPITAL)
    assert end.usage.first_token_seconds is not None
    assert end.usage.first_token_seconds > 0
    assert (end.usage.tokens_per_second or 0) > 0


def test_length(engine: LocalEngine) -> None:
    limited = dataclasses.replace(GREEDY, max_tokens=7)
    _, end, _ = run(engine, Request(STORY, limited))
    assert (end.stop_reason, end.usage.completion_tokens) == (StopReason.LENGTH, 7)


def test_stop_string_is_cut_and_named(either: LocalEngine) -> None:
    whole, _, _ = run(either, Request(STORY, GREEDY))
    stop = whole[20:29]
    text, end, events = run(either, Request(STORY, dataclasses.replace(GREEDY, stop=(stop,))))
    assert text == whole[: whole.index(stop)]
    assert (end.stop_reason, end.matched_stop) == (StopReason.STOP_STRING, stop)
    shown = ""
    for event in events:
        if isinstance(event, Delta):
            shown += event.text
            assert whole.startswith(shown + event.withheld)


def test_a_partial_stop_string_at_the_end_is_not_lost(engine: LocalEngine) -> None:
    whole, _, _ = run(engine, Request(STORY, GREEDY))
    never = (whole[-4:] + "\0never",)
    text, end, _ = run(engine, Request(STORY, dataclasses.replace(GREEDY, stop=never)))
    assert (text, end.stop_reason) == (whole, StopReason.LENGTH)


def test_criterion_like_in_transformers(either: LocalEngine) -> None:
    seen: list[tuple[int, ...]] = []

    def after_five(input_ids: torch.Tensor, scores: torch.Tensor) -> bool:
        seen.append(tuple(scores.shape))
        return input_ids.shape[1] >= prompt + 5

    prompt = either.count_tokens(STORY)
    _, end, _ = run(either, Request(STORY, GREEDY, stopping_criteria=(after_five,)))
    assert (end.stop_reason, end.matched_stop) == (StopReason.CRITERION, "after_five")
    assert end.usage.completion_tokens == 5
    assert set(seen) == {(1, 49152)}


def test_processor_sees_ids_and_changes_logits(either: LocalEngine) -> None:
    only = either.prompt_encoder.encode_text(" yes")[0]

    def always_yes(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        out = torch.full_like(scores, float("-inf"))
        out[0, only] = 0.0
        return out

    limited = dataclasses.replace(GREEDY, max_tokens=3)
    text, _, _ = run(either, Request(CAPITAL, limited, logits_processors=(always_yes,)))
    assert text == " yes yes yes"


def test_end_token_sequences(engine: LocalEngine) -> None:
    criterion = EosStoppingCriteria([(5, 6, 7), (9,)])
    rows = torch.tensor([[1, 5, 6, 7], [5, 6, 7, 1], [0, 0, 0, 9]])
    assert criterion(rows, None).tolist() == [True, False, True]
    assert criterion.match([5, 6, 7]) == (5, 6, 7)
    assert criterion.partial_match_length([1, 5, 6]) == 2
    assert EosStoppingCriteria([])(rows, None).tolist() == [False] * 3
    with pytest.raises(ValueError, match="at least one"):
        EosStoppingCriteria([()])


def test_closing_cancels_and_leaves_the_engine_usable(either: LocalEngine) -> None:
    with closing(either.stream(Request(STORY, GREEDY))) as events:
        for event in events:
            if isinstance(event, Delta) and event.usage.completion_tokens == 3:
                break
    assert not either._lock.locked()
    text, _, _ = run(either, Request(CAPITAL, GREEDY))
    assert "Paris" in text


def test_a_reply_is_continued(engine: LocalEngine) -> None:
    whole, _, _ = run(engine, Request(STORY, GREEDY))
    half = whole[: whole.index(" ", len(whole) // 2)]
    rest, _, _ = run(engine, Request((*STORY, Message("assistant", half)), GREEDY))
    assert rest.startswith(whole[len(half) : len(half) + 10])


def test_context_full(default_model: Path) -> None:
    small = LocalEngine.from_folder("small", default_model, resolve_placement("cpu"), context=64)
    prompt = small.count_tokens(STORY)
    _, end, _ = run(small, Request(STORY, dataclasses.replace(GREEDY, max_tokens=500)))
    assert end.stop_reason is StopReason.CONTEXT_FULL
    assert end.usage.completion_tokens == 64 - prompt

    old = (Message("user", "Old words. " * 12), Message("assistant", "Old reply."))
    pinned = Message("system", "Be brief.")
    short = dataclasses.replace(GREEDY, max_tokens=4)
    _, _, events = run(small, Request((pinned, *old, *CAPITAL), short))
    fitted = events[0]
    assert isinstance(fitted, PromptReady)
    assert fitted.omitted_messages == old
    assert fitted.prompt_tokens == small.count_tokens((pinned, *CAPITAL))

    with pytest.raises(ContextTooLong, match="64") as error:
        run(small, Request((Message("user", "many words " * 100),), GREEDY))
    assert "Shorten" in error.value.hint


def test_a_seed_gives_the_same_text_whatever_is_cached(either: LocalEngine) -> None:
    tokens = 16 if "transformers" in either.info.weights else 40  # which takes longer
    sampling = Sampling(temperature=0.9, seed=7, max_tokens=tokens)
    forget(either)
    first, _, _ = run(either, Request(STORY, sampling))
    again, _, _ = run(either, Request(STORY, sampling))
    assert again == first
    longer = (*STORY, Message("assistant", first), Message("user", "And then?"))
    list(either.read_ahead(Request(longer[:2])))
    warm, _, _ = run(either, Request(longer, sampling))
    forget(either)
    cold, _, _ = run(either, Request(longer, sampling))
    assert warm == cold
    other, _, _ = run(either, Request(STORY, dataclasses.replace(sampling, seed=8)))
    assert other != first


def test_a_reused_prefix_gives_the_same_logits(either: LocalEngine) -> None:
    ids = either.prompt_encoder.encode([Message("user", "A few words about the sea. " * 80)])
    longer = ids + either.prompt_encoder.encode([Message("user", "And about the wind. " * 30)])
    model = either._adapters.model
    fresh = CachedPrompt(model)
    list(fresh.prefill(longer))

    reused = CachedPrompt(model)
    list(reused.prefill(ids))
    for token in (1, 2, 3):
        decode_batch(model, [reused], [[token]])
    kept = reused.reuse_prefix(longer)
    assert kept >= 256
    assert list(reused.prefill(longer))[-1] == len(longer)
    assert torch.equal(reused.logits, fresh.logits)


def test_the_same_prompt_is_not_read_again(engine: LocalEngine) -> None:
    forget(engine)
    run(engine, Request(CAPITAL, GREEDY))
    _, end, events = run(engine, Request(CAPITAL, GREEDY))
    assert end.usage.cached_tokens == end.usage.prompt_tokens
    assert not [event for event in events if isinstance(event, Prefill)]


def test_reading_ahead_changes_only_the_time(either: LocalEngine) -> None:
    history = (Message("user", "Tell me about rivers. " * 60), Message("assistant", "They flow."))
    request = Request((*history, Message("user", "Where?")), GREEDY)
    forget(either)
    text, _, _ = run(either, request)
    forget(either)
    progress = list(either.read_ahead(Request(history)))
    assert 256 <= progress[-1].done <= progress[-1].total
    ahead, end, _ = run(either, request)
    assert ahead == text
    assert end.usage.cached_tokens == progress[-1].done


def test_out_of_memory_has_a_hint_and_leaves_the_engine_usable(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1")

    with monkeypatch.context() as patch:
        patch.setattr("chatlm.engines.native.model.NativeModel.decode", full)
        with pytest.raises(OutOfMemoryError, match="Out of memory on cpu") as error:
            run(engine, Request(CAPITAL, GREEDY))
        assert "config set context" in error.value.hint
        patch.setattr("chatlm.engines.native.model.NativeCache.prefill_in_parts", full)
        with pytest.raises(OutOfMemoryError, match="Out of memory on cpu"):
            list(engine.read_ahead(Request((Message("user", "Rivers flow. " * 200),), GREEDY)))
    assert "Paris" in run(engine, Request(CAPITAL, GREEDY))[0]


def test_info_has_versions_and_recommended_sampling(default_model: Path) -> None:
    suits = Sampling(temperature=0.3)
    info = LocalEngine.from_folder(
        "default", default_model, resolve_placement("cpu"), catalogue_sampling=suits
    ).info
    assert info.versions["torch"] == torch.__version__
    assert set(info.versions) == {"torch", "transformers", "tokenizers"}
    assert info.recommended_sampling == suits
    assert info.default_sampling == suits.with_fallback(DEFAULT_SAMPLING)


def test_an_unknown_adapter_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(EngineError, match="poet"):
        run(engine, Request(CAPITAL, GREEDY, adapter="poet"))


def test_alpaca_and_vicuna_formats_stop_where_the_user_would_speak(default_model: Path) -> None:
    for prompt_format in ("alpaca", "vicuna", "chatml"):
        engine = LocalEngine.from_folder(
            "default",
            default_model,
            resolve_placement("cpu"),
            prompt_format=prompt_format,
        )
        text, _, _ = run(engine, Request(CAPITAL, GREEDY))
        assert "Paris" in text, prompt_format
        assert engine.info.prompt_format == prompt_format


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(ModelError, match="does not know its architecture nonsense") as error:
        LocalEngine.from_folder("broken", tmp_path, resolve_placement("cpu"))
    assert "pip install -U transformers" in error.value.hint


@pytest.mark.parametrize("device", ["cuda:7", "mps"])
def test_a_missing_device_is_refused(device: str) -> None:
    with pytest.raises(ModelError, match="no device") as error:
        resolve_placement(device)
    assert "device auto" in error.value.hint


def test_quantized_weights_without_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="bitsandbytes") as error:
        place_weights(resolve_placement("cpu"), "int4")
    assert "chatlm[quantize]" in error.value.hint


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 256, 300, 512, 700])
def test_blocks_end_in_order_and_at_the_last_token(tokens: int) -> None:
    ends = block_ends(tokens, "cpu")
    assert ends[-1] == tokens
    assert ends == sorted(set(ends))
    longer = block_ends(tokens + 1, "cpu")
    whole = [end for end in ends if end % 256 == 0]
    assert longer[: len(whole)] == whole
