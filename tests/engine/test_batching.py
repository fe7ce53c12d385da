"""Batching and speculation: several tokens at once yield the same as one at a time."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from chatlm.engines import continuous_batch, local_engine
from chatlm.engines.batching import stream_many
from chatlm.engines.context_fit import FittedPrompt
from chatlm.engines.devices import resolve_placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.kv_cache import KVCache, KVFormat, SequenceInput
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.quantization import WeightFormat
from chatlm.engines.scripted import ScriptedEngine
from chatlm.engines.speculative import MAX_DRAFT_TOKENS, NGRAM_SIZE, PromptLookup
from chatlm.errors import ContextTooLong, OutOfMemoryError, UsageError
from chatlm.types.engine import Batch
from chatlm.types.events import Delta, EngineEvent, Finished, Prefill, PromptReady
from chatlm.types.messages import Message
from chatlm.types.replies import StopReason
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.engine import adapter_files, tiny
from tests.engine.test_native import native_model, random_ids
from tests.waiting import PATIENCE

PASSAGE = (
    "The lighthouse of Farol stands on a rock of basalt, 31 metres above the sea. Its lamp was lit "
    "for the first time in 1858; since 1987 no keeper has lived there. Visitors come by boat, "
    "on Tuesdays and Saturdays, when the wind is below force 5. "
)
COPY = Message("user", f"{PASSAGE}\n\nRepeat this text word by word, without any change.")
STORY = Message("user", "Write a long story about a lighthouse.")
LIST = Message("user", "Count from one to fifty in words, one number a line.")
GREEDY = Sampling(temperature=0.0, frequency_penalty=0.0, max_tokens=60)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("variant", tiny.CONFIGS)
@pytest.mark.parametrize(
    ("form", "kv_format"),
    [("bf16", "auto"), ("int8", "auto"), ("int4", "auto"), ("int8", "int8")],
)
def test_results_do_not_depend_on_the_rest_of_the_batch(
    tmp_path: Path, variant: str, form: WeightFormat, kv_format: KVFormat
) -> None:
    folder = tiny.save(tmp_path / "model", variant)
    model = native_model(folder, torch.bfloat16, form)
    model.kv_format = kv_format
    decoder = model.decoder
    assert isinstance(decoder, CDecoder)
    adapted = model.load_adapter(
        adapter_files.save(tmp_path / "adapter", folder, strength=0.5, target_modules=["v_proj"])
    )
    ids, rope = random_ids(folder), model.ropes(512)
    # tokens in the cache, tokens to add, and whether with an adapter; the first three cross the
    # boundary of a chunk
    cases = [(60, 7, False), (62, 3, True), (127, 2, False), (0, 1, True), (140, 1, False)]

    def begun(length: int, lora: bool) -> SequenceInput:
        cache = (adapted if lora else model).new_cache()
        if length:
            cache.prefill(ids[:length])
        return cache.sequence_input([])

    def alone(length: int, count: int, lora: bool) -> tuple[torch.Tensor, KVCache]:
        growth = begun(length, lora)
        rows = [
            decoder.decode([dataclasses.replace(growth, tokens=[token])], rope)
            for token in ids[length : length + count]
        ]
        return torch.cat(rows), growth.kv_cache

    growths = [
        dataclasses.replace(begun(length, lora), tokens=ids[length : length + count])
        for length, count, lora in cases
    ]
    rows = decoder.decode(growths, rope).split([count for _, count, _ in cases])
    for made, growth, case in zip(rows, growths, cases, strict=True):
        expected, memory = alone(*case)
        assert torch.equal(made, expected), case
        assert growth.kv_cache.length == memory.length
        used = slice(0, memory.length)
        for own, other in zip(growth.kv_cache.buffer.layers, memory.buffer.layers, strict=True):
            assert torch.equal(own.kv[:, :, used], other.kv[:, :, used])
            assert (own.scales is None) == (kv_format == "auto")
            if own.scales is not None and other.scales is not None:
                assert torch.equal(own.scales[:, :, used], other.scales[:, :, used])


def test_a_draft_is_what_followed_the_longest_match() -> None:
    assert NGRAM_SIZE == 3
    lookup = PromptLookup([9, 1, 2, 3, 50, 51, 8, 1, 2, 3, 60, 61, 62])
    assert lookup.draft(5) == []
    for token in (9, 1):
        lookup.add(token)
    assert lookup.draft(5) == []
    lookup.add(2)
    assert lookup.draft(3) == [3, 50, 51]
    lookup.add(3)
    assert lookup.draft(2) == [50, 51]
    assert lookup.draft(0) == []
    for token in (60, 8, 1, 2, 3):
        lookup.add(token)
    assert lookup.draft(3) == [60, 61, 62]


def generate(engine: LocalEngine, request: Request) -> tuple[str, Finished]:
    events = list(engine.stream(request))
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, Delta)), events[-1]


def calls_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of tokens of each decode call from now on."""
    counts: list[int] = []
    extend = NativeModel.decode

    def counted(self: NativeModel, caches: Any, ids: Any) -> torch.Tensor:
        counts.append(sum(map(len, ids)))
        return extend(self, caches, ids)

    monkeypatch.setattr(NativeModel, "decode", counted)
    return counts


SAMPLINGS = [
    GREEDY,
    dataclasses.replace(GREEDY, frequency_penalty=0.4, presence_penalty=0.3),
    dataclasses.replace(GREEDY, repetition_penalty=1.3),
    dataclasses.replace(GREEDY, temperature=0.7, seed=3),
    dataclasses.replace(GREEDY, dry_multiplier=0.8),
    dataclasses.replace(GREEDY, temperature=0.9, seed=4, top_n_sigma=1.5, xtc_probability=0.5),
    dataclasses.replace(GREEDY, logit_bias=((" the", -100.0), ("sea", 2.0))),
    dataclasses.replace(GREEDY, stop=("boat",)),
    dataclasses.replace(GREEDY, max_tokens=5),
]


@pytest.mark.parametrize("message", [COPY, STORY, LIST], ids=["copy", "story", "list"])
def test_speculation_changes_no_reply(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, message: Message
) -> None:
    for sampling in SAMPLINGS:
        request = Request((message,), sampling)
        guessed = generate(engine, request)
        with monkeypatch.context() as patch:
            patch.setattr(PromptLookup, "draft", lambda self, max_tokens: [])
            text, end = generate(engine, request)
        assert guessed[0] == text, sampling
        assert guessed[1].stop_reason is end.stop_reason
        assert guessed[1].usage.completion_tokens == end.usage.completion_tokens


def test_processors_and_criteria_are_called_for_each_token_in_order(engine: LocalEngine) -> None:
    seen: list[tuple[int, ...]] = []

    def look(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(input_ids[0].tolist()))
        return scores

    _, end = generate(engine, Request((COPY,), GREEDY, logits_processors=(look,)))
    assert len(seen) == end.usage.completion_tokens
    assert all(after[:-1] == before for before, after in pairwise(seen))


def test_copied_text_takes_fewer_steps_and_new_text_few_drafts(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(monkeypatch)
    _, end = generate(engine, Request((COPY,), GREEDY))
    assert len(calls) < end.usage.completion_tokens / 2
    assert max(calls) <= MAX_DRAFT_TOKENS + 1
    calls.clear()
    _, end = generate(engine, Request((STORY,), dataclasses.replace(GREEDY, max_tokens=200)))
    cost = sum(1 + 0.4 * (count - 1) for count in calls)  # relative to a call with one token
    assert cost < 1.03 * end.usage.completion_tokens


def test_a_reply_stopped_within_a_draft_leaves_a_valid_cache(engine: LocalEngine) -> None:
    whole, _ = generate(engine, Request((COPY,), GREEDY))
    for stop in (5, 12, 25):
        with closing(engine.stream(Request((COPY,), GREEDY))) as events:
            for event in events:
                if isinstance(event, Delta) and event.usage.completion_tokens == stop:
                    break
        assert generate(engine, Request((COPY,), GREEDY))[0] == whole
    longer = (COPY, Message("assistant", whole), Message("user", "And now shorter, please."))
    warm, _ = generate(engine, Request(longer, GREEDY))
    engine._prompt_cache.clear()
    assert generate(engine, Request(longer, GREEDY))[0] == warm


def requests() -> list[Request]:
    """Return requests of different lengths, samplings and stop reasons."""
    short = dataclasses.replace(GREEDY, max_tokens=12)
    return [
        Request((STORY,), short),
        Request((COPY,), GREEDY),
        Request((Message("user", "What is the capital of France?"),), GREEDY),
        Request((STORY,), dataclasses.replace(short, temperature=0.9, seed=5, max_tokens=30)),
        Request((LIST,), dataclasses.replace(GREEDY, stop=("five",))),
        Request((COPY,), dataclasses.replace(short, dry_multiplier=1.0)),
        Request((STORY,), dataclasses.replace(short, temperature=0.9, seed=5, top_n_sigma=1.5)),
        Request((STORY,), dataclasses.replace(short, temperature=0.9, seed=5, xtc_probability=0.7)),
        Request((STORY,), dataclasses.replace(short, logit_bias=((" the", -100.0),))),
    ]


def test_a_bias_by_text_rules_its_tokens_out_and_an_unknown_id_is_an_error(
    engine: LocalEngine,
) -> None:
    plain = Request((STORY,), dataclasses.replace(GREEDY, max_tokens=20))
    assert " the" in generate(engine, plain)[0]
    biased = dataclasses.replace(GREEDY, max_tokens=20, logit_bias=((" the", -100.0),))
    assert " the " not in generate(engine, dataclasses.replace(plain, sampling=biased))[0]
    unknown = dataclasses.replace(GREEDY, logit_bias=((10**8, 1.0),))
    found = gathered(stream_many_quietly(engine, [Request((STORY,), unknown), plain]))
    assert isinstance(found[0][-1], UsageError)
    assert "token id 100,000,000" in found[0][-1].message
    assert isinstance(found[1][-1], Finished)


def stream_many_quietly(
    engine: LocalEngine, wanted: list[Request]
) -> Iterator[tuple[int, EngineEvent | Exception]]:
    """Stream requests in one batch; an error is the last event of its request."""
    with closing(engine.batch()) as batch:
        for request in wanted:
            batch.add(request)
        while len(batch):
            yield from batch.step()


def gathered(events: Iterator[tuple[int, Any]]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for number, event in events:
        found.setdefault(number, []).append(event)
    return found


def text_of(events: list[EngineEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


@pytest.mark.parametrize("way", ["auto", "transformers"])
def test_batched_replies_are_those_of_single_requests(
    default_model: Path, tmp_path: Path, way: str
) -> None:
    adapter = adapter_files.save(tmp_path / "poet", default_model, strength=0.05)
    engine = LocalEngine.from_folder(
        "default", default_model, resolve_placement("cpu"), engine=way,
        find_adapter=lambda name: adapter,
    )  # fmt: skip
    all_of_them = requests()
    if way == "transformers":
        all_of_them = all_of_them[:1] + all_of_them[2:3]
    adapted = dataclasses.replace(all_of_them[0], adapter="poet")
    all_of_them += [adapted]
    if way == "auto":  # these share the prompt
        drawn = (Sampling(temperature=1.0, seed=seed, max_tokens=8) for seed in range(3))
        all_of_them += [dataclasses.replace(adapted, sampling=each) for each in drawn]
    found = gathered(stream_many(engine, all_of_them))
    assert sorted(found) == list(range(len(all_of_them)))
    for number, request in enumerate(all_of_them):
        events = found[number]
        assert isinstance(events[0], PromptReady)
        assert isinstance(events[-1], Finished)
        text, end = generate(engine, request)
        assert text_of(events) == text
        assert events[-1].stop_reason is end.stop_reason
    engine._prompt_cache.clear()
    last = all_of_them[-1]
    assert text_of(found[len(all_of_them) - 1]) == generate(engine, last)[0], "it is cold"
    engine.close()


def test_requests_beyond_the_batch_size_wait(engine: LocalEngine) -> None:
    words = ["sea", "wind", "rock", "lamp"] * 5
    many = [
        Request((Message("user", f"Say {word}."),), dataclasses.replace(GREEDY, max_tokens=3 + n))
        for n, word in enumerate(words)
    ]
    found = gathered(stream_many(engine, many))
    assert [text_of(found[n]) for n in range(20)] == [generate(engine, one)[0] for one in many]


def test_closing_a_batch_leaves_the_engine_usable(engine: LocalEngine) -> None:
    with closing(stream_many(engine, requests())) as events:
        for _, event in events:
            if isinstance(event, Delta) and event.usage.completion_tokens == 3:
                break
    assert not engine._lock.locked()
    assert generate(engine, requests()[2])[1].stop_reason is StopReason.END


def test_a_sequential_batch_answers_one_by_one() -> None:
    engine = ScriptedEngine("One.", "Two.")
    found = list(stream_many(engine, [Request((STORY,)), Request((COPY,))]))
    assert [number for number, _ in found] == sorted(number for number, _ in found)
    both = gathered(iter(found))
    assert (text_of(both[0]), text_of(both[1])) == ("One.", "Two.")


def stepped(batch: Batch, found: dict[int, list[Any]], until: Callable[[], bool]) -> None:
    """Step until a condition holds or all requests have ended."""
    while len(batch) and not until():
        for number, event in batch.step():
            found.setdefault(number, []).append(event)


@pytest.mark.parametrize("way", ["auto", "transformers"])
def test_requests_are_added_and_cancelled_while_others_run(default_model: Path, way: str) -> None:
    engine = LocalEngine.from_folder("default", default_model, resolve_placement("cpu"), engine=way)
    first, second, third = (
        Request((Message("user", text),), dataclasses.replace(GREEDY, max_tokens=14))
        for text in ("Write a long story about a lighthouse.", "Say lamp.", "Count to ten.")
    )
    long = Request((Message("user", "word " * 9000),), GREEDY)
    alone = [generate(engine, request) for request in (first, second, third)]
    engine._prompt_cache.clear()
    found: dict[int, list[Any]] = {}
    with closing(engine.batch()) as batch:
        assert batch.max_concurrency == (16 if way == "auto" else 1)
        assert batch.add(first) == 0
        if batch.max_concurrency == 1:
            stepped(batch, found, lambda: False)
        stepped(batch, found, lambda: len(found.get(0, [])) > 5)
        assert batch.add(long) == 1
        stepped(batch, found, lambda: 1 in found)
        assert isinstance(found[1][0], ContextTooLong)
        assert batch.add(second) == 2
        stepped(batch, found, lambda: len(found.get(2, [])) > 4)
        batch.cancel(2)
        heard = len(found[2])
        assert batch.add(third) == 3
        stepped(batch, found, lambda: False)
        assert len(found[2]) == heard, "nothing comes of one that was dropped"
        batch.cancel(2)
    for number, (text, end) in ((0, alone[0]), (3, alone[2])):
        assert text_of(found[number]) == text
        assert found[number][-1].stop_reason is end.stop_reason
    assert not engine._lock.locked()
    engine.close()


def test_a_prompt_prefilled_by_a_batch_is_reused(engine: LocalEngine) -> None:
    engine._prompt_cache.clear()
    short = dataclasses.replace(GREEDY, max_tokens=4)
    chats = [(Message("user", f"{word} {PASSAGE * 8}"),) for word in ("One.", "Two.", "Three.")]
    with closing(engine.batch()) as batch:
        for messages in chats:
            batch.add(Request(messages, short))
        found: dict[int, list[Any]] = {}
        stepped(batch, found, lambda: False)
    assert [found[number][0].cached_tokens for number in range(3)] == [0, 0, 0]
    for number, messages in enumerate(chats):
        said = Message("assistant", text_of(found[number]))
        longer = (*messages, said, Message("user", "Go on."))
        fitted = next(engine.stream(Request(longer, short)))
        assert isinstance(fitted, PromptReady)
        assert fitted.cached_tokens >= 256


def test_a_failing_request_ends_only_itself(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(ids: Any, logits: Any) -> Any:
        raise ZeroDivisionError("in a processor")

    short = dataclasses.replace(GREEDY, max_tokens=8)
    both = [Request((LIST,), short, logits_processors=(broken,)), Request((STORY,), short)]
    found: dict[int, list[Any]] = {}
    with closing(engine.batch()) as batch:
        for request in both:
            batch.add(request)
        stepped(batch, found, lambda: False)
    assert isinstance(found[0][-1], ZeroDivisionError)
    assert text_of(found[1]) == generate(engine, both[1])[0]
    events: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        events.extend(stream_many(engine, both))
    with pytest.raises(ZeroDivisionError):
        list(engine.stream(both[0]))

    def full(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1")

    with monkeypatch.context() as patch, closing(engine.batch()) as batch:
        batch.add(both[1])
        batch.add(both[1])
        patch.setattr(NativeModel, "decode", full)
        found = {}
        stepped(batch, found, lambda: False)
    assert [type(found[number][-1]) for number in (0, 1)] == [OutOfMemoryError] * 2
    assert text_of(list(engine.stream(both[1])))


LONG = Message("user", "Write a word. " * 20)


@pytest.fixture
def long_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LONG` counts as a long prompt, so that no test has to prefill thousands of tokens."""
    monkeypatch.setattr(local_engine, "MAX_INLINE_CHARACTERS", len(LONG.text) - 1)


def written_in_batch(engine: LocalEngine, request: Request) -> str:
    with closing(engine.batch()) as batch:
        index, found = batch.add(request), dict[int, list[Any]]()
        while len(batch):
            for number, event in batch.step():
                found.setdefault(number, []).append(event)
    return text_of(found[index])


def test_a_prompt_encoded_in_another_thread_gets_the_same_reply(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = written_in_batch(engine, Request((LONG,), GREEDY))
    monkeypatch.setattr(local_engine, "MAX_INLINE_CHARACTERS", 0)
    assert written_in_batch(engine, Request((LONG,), GREEDY)) == inline != ""


@pytest.mark.usefixtures("long_prompts")
def test_a_reply_goes_on_while_a_long_prompt_is_encoded(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, may_end, log = engine._fit_prompt, threading.Event(), list[str]()

    def slow_fit(request: Request) -> FittedPrompt:
        if request.messages[0] is LONG:
            log.append("encoded" if may_end.wait(PATIENCE) else "nobody went on")
        return fit(request)

    monkeypatch.setattr(engine, "_fit_prompt", slow_fit)
    short = dataclasses.replace(GREEDY, max_tokens=8)
    with closing(engine.batch()) as batch:
        number_of_long = batch.add(Request((LONG,), short))
        batch.add(Request((STORY,), short))
        while len(batch):
            for number, event in batch.step():
                if isinstance(event, Finished):
                    log.append("long" if number == number_of_long else "short")
                    may_end.set()
    assert log == ["short", "encoded", "long"]


@pytest.mark.usefixtures("long_prompts")
def test_a_long_prompt_can_be_left_while_it_is_encoded(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, may_end = engine._fit_prompt, threading.Event()

    def slow_fit(request: Request) -> FittedPrompt:
        may_end.wait(PATIENCE)
        return fit(request)

    with monkeypatch.context() as patched, closing(engine.batch()) as batch:
        patched.setattr(engine, "_fit_prompt", slow_fit)
        for number in (batch.add(Request((LONG,), GREEDY)), batch.add(Request((LONG,), GREEDY))):
            assert batch.step() == []
            batch.cancel(number)
        assert not len(batch)
        may_end.set()
    assert generate(engine, Request((STORY,), GREEDY))[0]


def test_a_long_prompt_that_does_not_fit_is_an_error(engine: LocalEngine) -> None:
    too_long = Message("user", "A word. " * engine.info.context_length)
    with pytest.raises(ContextTooLong):
        list(engine.stream(Request((too_long,), GREEDY)))


def test_a_processor_that_writes_in_place_changes_its_own_reply_alone(engine: LocalEngine) -> None:
    def ban_new(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        banned = scores.clone()
        banned[:, ::2] = -torch.inf
        return banned

    def ban_in_place(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, ::2] = -torch.inf
        return scores

    def spoil(input_ids: torch.Tensor, scores: torch.Tensor) -> bool:
        scores.fill_(torch.nan)
        return False

    few = dataclasses.replace(GREEDY, max_tokens=12)
    requests = [
        Request((STORY,), few, logprobs=0),
        Request((STORY,), few, logits_processors=(ban_in_place,), logprobs=0),
        Request((LIST,), few, stopping_criteria=(spoil,), logprobs=0),
    ]
    asked = [
        requests[0],
        dataclasses.replace(requests[1], logits_processors=(ban_new,)),
        dataclasses.replace(requests[2], stopping_criteria=()),
    ]

    def seen(events: list[EngineEvent]) -> list[tuple[str, list[float]]]:
        deltas = [event for event in events if isinstance(event, Delta)]
        return [(d.text, [token.logprob for token in d.logprobs]) for d in deltas]

    found: dict[int, list[EngineEvent]] = {}
    for number, event in stream_many(engine, requests):
        found.setdefault(number, []).append(event)
    for number, request in enumerate(asked):
        assert seen(found[number]) == seen(list(engine.stream(request)))


def test_a_processor_that_fails_ends_its_own_reply_alone(engine: LocalEngine) -> None:
    def fail(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise ValueError("not today")

    few = dataclasses.replace(GREEDY, max_tokens=6)
    found: dict[int, list[Any]] = {}
    with closing(engine.batch()) as batch:
        batch.add(Request((LIST,), few, logits_processors=(fail,)))
        batch.add(Request((LIST,), few))
        stepped(batch, found, lambda: False)
    assert str(found[0][-1]) == "not today"
    assert text_of(found[1]) == generate(engine, Request((LIST,), few))[0]


def a_layer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch pause wherever it can while it reads prompts."""
    monkeypatch.setattr(continuous_batch, "PREFILL_SECONDS", 0.0)
    monkeypatch.setattr(continuous_batch, "PREFILL_STEPS", 0)


def test_others_go_on_within_a_block_and_every_reply_stays_the_same(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(GREEDY, max_tokens=24)
    story = Request((STORY,), dataclasses.replace(short, max_tokens=60, temperature=0.9, seed=5))
    long = Request((Message("user", f"{PASSAGE * 6} Repeat this text."),), short)
    alone = [generate(engine, request)[0] for request in (story, long)]
    engine._prompt_cache.clear()
    a_layer_at_a_time(monkeypatch)
    found: dict[int, list[Any]] = {}
    with closing(engine.batch()) as batch:
        batch.add(story)
        stepped(batch, found, lambda: any(isinstance(event, Delta) for event in found.get(0, [])))
        batch.add(long)
        stepped(batch, found, lambda: any(isinstance(event, Prefill) for event in found.get(1, [])))
        deltas = [event for event in found[0] if isinstance(event, Delta)]
        assert len(deltas) >= 20, "the story grew while the other prompt's first block was read"
        stepped(batch, found, lambda: False)
    assert [text_of(found[number]) for number in (0, 1)] == alone
    engine._prompt_cache.clear()


def test_a_prompt_that_is_left_within_a_block_is_read_again(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(GREEDY, max_tokens=24)
    long = Request((Message("user", f"{PASSAGE * 6} Repeat this text."),), short)
    alone = generate(engine, long)[0]
    engine._prompt_cache.clear()
    a_layer_at_a_time(monkeypatch)
    found: dict[int, list[Any]] = {}
    with closing(engine.batch()) as batch:
        batch.add(Request((STORY,), GREEDY))
        stepped(batch, found, lambda: any(isinstance(event, Delta) for event in found.get(0, [])))
        batch.add(long)
        for _ in range(5):
            batch.step()
        batch.cancel(1)
    assert generate(engine, long)[0] == alone
    assert generate(engine, Request((STORY,), GREEDY))[0].startswith(text_of(found[0]))
