"""Log-probabilities of the real default model, against transformers' own forward pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE

from chatlm.engines import generation_state
from chatlm.engines.batching import stream_many
from chatlm.engines.detokenizer import make_token_bytes
from chatlm.engines.devices import resolve_placement
from chatlm.engines.generation_state import top_token_ids
from chatlm.engines.local_engine import LocalEngine
from chatlm.types.events import Delta, EngineEvent, Finished, TokenLogprob
from chatlm.types.messages import Message
from chatlm.types.replies import StopReason
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.engine import tiny

COLOURS = Message("user", "What are the colours of the rainbow?")
GREEDY = Sampling(temperature=0.0, frequency_penalty=0.0, max_tokens=24)
PLAIN = Request((COLOURS,), GREEDY, logprobs=5)

WAYS = {"transformers": "float32", "bf16": "bf16", "int8": "auto"}
"""The setting `weights` for each."""


@pytest.fixture(scope="module", params=WAYS)
def each_way(request: pytest.FixtureRequest, default_model: Path) -> Iterator[tuple[str, Any]]:
    with closing(
        LocalEngine.from_folder(
            "m", default_model, resolve_placement("cpu"), weights=WAYS[request.param]
        )
    ) as engine:
        assert ("transformers" in engine.info.weights) is (request.param == "transformers")
        yield request.param, engine


@pytest.fixture(scope="module")
def own(default_model: Path) -> Any:
    return tiny.reference(default_model, torch.float32)


class Spy:
    """A stopping criterion that records the ids and never stops."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def __call__(self, ids: Any, scores: Any) -> bool:
        self.ids = ids[0].tolist()
        return False


def parts(events: Sequence[EngineEvent]) -> tuple[str, list[TokenLogprob]]:
    """Return the text and its tokens; check that none comes before its text."""
    text, tokens = "", list[TokenLogprob]()
    for event in events:
        if isinstance(event, Delta):
            text += event.text
            tokens += event.logprobs
            assert text.encode().startswith(b"".join(token.bytes for token in tokens))
    return text, tokens


def only(token: int, scores: Any) -> Any:
    """Return scores that allow a single token."""
    return torch.full_like(scores, float("-inf")).index_fill(1, torch.tensor([token]), 0.0)


def generate(engine: LocalEngine, request: Request) -> tuple[str, list[TokenLogprob]]:
    return parts(list(engine.stream(request)))


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(temperature=1.3, top_k=40, repetition_penalty=1.2, max_tokens=24, seed=3)],
    ids=["greedy", "drawn"],
)
def test_logprobs_are_those_of_a_plain_forward_pass(
    each_way: tuple[str, LocalEngine], own: Any, sampling: Sampling
) -> None:
    way, engine = each_way
    near = {"transformers": 1e-3, "bf16": 0.25, "int8": 0.6}[way]
    spy = Spy()
    request = dataclasses.replace(PLAIN, sampling=sampling, stopping_criteria=(spy,))
    _, tokens = generate(engine, request)
    prompt = len(engine.preview(request).tokens)
    with torch.no_grad():
        logits = own(torch.tensor([spy.ids])).logits[0, prompt - 1 :]
    logprobs = torch.log_softmax(logits, dim=-1)
    assert len(tokens) >= 10
    for token, number, row in zip(tokens, spy.ids[prompt:], logprobs, strict=False):
        assert token.bytes == engine.prompt_encoder.token_bytes(number)
        assert token.logprob == pytest.approx(float(row[number]), abs=near)
        tops = [each.logprob for each in token.top_logprobs]
        assert tops == pytest.approx(row.topk(5).values.tolist(), abs=near)
        assert sorted(tops, reverse=True) == tops
        assert sum(map(math.exp, tops)) <= 1 + 1e-6
        assert token.logprob <= tops[0]


def test_greedy_sampling_chooses_the_likeliest_token(
    each_way: tuple[str, LocalEngine],
) -> None:
    text, tokens = generate(each_way[1], PLAIN)
    assert "".join(token.text for token in tokens) == text
    for token in tokens:
        assert (token.bytes, token.logprob) == (
            token.top_logprobs[0].bytes,
            token.top_logprobs[0].logprob,
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.9, "seed": 5},
        {"frequency_penalty": 0.5, "repetition_penalty": 1.3},
        {"stop": ("blue", "celestial phenomenon")},
        {"max_tokens": 3},
    ],
)
def test_logprobs_change_no_reply_and_are_the_same_in_a_batch(
    each_way: tuple[str, LocalEngine], changes: Any
) -> None:
    way, engine = each_way
    limit = {"max_tokens": 12} if way == "transformers" else {}  # which is slow
    asking = dataclasses.replace(PLAIN, sampling=dataclasses.replace(GREEDY, **limit | changes))
    text, tokens = generate(engine, asking)
    if "stop" in changes:
        assert text == "The rainbow is a "
    bare, nothing = generate(engine, dataclasses.replace(asking, logprobs=None))
    assert (bare, nothing) == (text, [])
    some = dataclasses.replace(asking, logprobs=0)
    assert generate(engine, some) == (
        text,
        [dataclasses.replace(each, top_logprobs=()) for each in tokens],
    )
    many: dict[int, list[EngineEvent]] = {0: [], 1: [], 2: []}
    story = dataclasses.replace(asking, messages=(Message("user", "Tell a story."),))
    for number, event in stream_many(engine, [asking, story, asking]):
        many[number].append(event)
    assert parts(many[0]) == parts(many[2]) == (text, tokens)


def test_logprobs_are_not_computed_unless_requested(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = dataclasses.replace(PLAIN, logprobs=None)
    text, _ = generate(engine, asking)
    monkeypatch.setattr(torch, "log_softmax", None)
    monkeypatch.setattr(generation_state, "token_logprob", None)
    assert generate(engine, asking) == (text, [])


def test_logprobs_are_taken_before_processors(engine: LocalEngine) -> None:
    def one_word(ids: Any, scores: Any) -> Any:
        forced = engine.prompt_encoder.encode_text(" banana")[0]
        return only(forced, scores)

    _, plain = generate(engine, PLAIN)
    text, forced = generate(engine, dataclasses.replace(PLAIN, logits_processors=(one_word,)))
    assert text.startswith(" banana banana")
    assert forced[0].top_logprobs == plain[0].top_logprobs
    assert forced[0].logprob < plain[0].top_logprobs[-1].logprob


def test_tokens_cut_by_a_stop_string_have_no_logprobs(engine: LocalEngine) -> None:
    text, tokens = generate(engine, PLAIN)
    second = tokens[2].text
    assert len(second) > 2
    for stop in (second, second[1:], second[1:] + tokens[3].text[:1]):
        cut = dataclasses.replace(PLAIN, sampling=dataclasses.replace(GREEDY, stop=(stop,)))
        short, reported = generate(engine, cut)
        assert short == text.partition(stop)[0]
        assert reported == tokens[:2]


def test_the_end_token_has_no_logprob(engine: LocalEngine) -> None:
    request = Request((Message("user", "What is the capital of France?"),), GREEDY, logprobs=0)
    events = list(engine.stream(request))
    assert isinstance(events[-1], Finished)
    assert events[-1].stop_reason is StopReason.END
    text, tokens = parts(events)
    assert b"".join(token.bytes for token in tokens) == text.encode()
    assert len(tokens) == sum(isinstance(event, Delta) for event in events) - 1


def test_the_tokens_of_a_split_character_come_together(engine: LocalEngine) -> None:
    smile = "🙂".encode()
    spelled = [
        engine.prompt_encoder.token_bytes(n) for n in engine.prompt_encoder.encode_text("🙂")
    ]
    assert len(spelled) > 1
    assert b"".join(spelled) == smile

    def smiles(ids: Any, scores: Any) -> Any:
        numbers = engine.prompt_encoder.encode_text("🙂")
        return only(numbers[(ids.shape[1] - prompt) % len(numbers)], scores)

    asking = dataclasses.replace(
        PLAIN, logits_processors=(smiles,), sampling=dataclasses.replace(GREEDY, max_tokens=7)
    )
    prompt = len(engine.preview(asking).tokens)
    text, tokens = generate(engine, asking)
    whole = 7 // len(spelled)
    assert text == "🙂" * whole
    assert [token.bytes for token in tokens] == spelled * whole


def test_ties_are_ordered_by_id() -> None:
    row = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0])
    assert top_token_ids(row, 4) == [1, 3, 2, 4]
    assert top_token_ids(row, 20) == [1, 3, 2, 4, 5, 0]
    assert top_token_ids(row, 0) == []


def test_token_bytes_are_those_of_the_tokenizer(engine: LocalEngine) -> None:
    backend = Tokenizer.from_str(engine.prompt_encoder._backend.to_str())
    spelled = make_token_bytes(backend)
    for number in range(backend.get_vocab_size()):
        alone = backend.decode([number], skip_special_tokens=False)
        assert spelled(number).decode("utf-8", "replace") == alone
    assert spelled(10**6) == b""
    text = "naïve 🙂\tÆsop  日本"
    assert b"".join(map(spelled, backend.encode(text).ids)) == text.encode()


def test_token_bytes_of_a_vocabulary_with_byte_fallback() -> None:
    names = ["▁", "h", "i", "▁h", "▁hi", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = BPE(
        vocab={name: number for number, name in enumerate(names)},
        merges=[("▁", "h"), ("▁h", "i")],
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    spelled = make_token_bytes(backend)
    assert b"".join(map(spelled, backend.encode("▁hi▁é").ids)) == " hi é".encode()
