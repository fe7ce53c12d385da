"""A plugin's own model behind `chatlm.LocalEngine`, and message parts that engines refuse."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import chatlm
from chatlm import (
    Delta,
    Engine,
    EngineError,
    Finished,
    LocalEngine,
    Message,
    Model,
    Request,
    Sampling,
    StopReason,
    UsageError,
)
from chatlm.chat.reply_methods import NoOffers
from chatlm.chat.turn_runner import reply_events
from chatlm.engines.scripted import ScriptedEngine
from chatlm.types.parts import Image, Reasoning, Text, ToolCall
from tests.engine.byte_model import BYTES, UniformModel

VOCABULARY = len(BYTES) + 2
"""All bytes and ChatML's two control tokens."""


@pytest.fixture
def engine(tmp_path: Path) -> LocalEngine:
    """A new uniform model with a tokenizer of bytes."""
    return open_uniform(tmp_path, UniformModel(VOCABULARY))


def open_uniform(folder: Path, model: Model) -> LocalEngine:
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(BYTES)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return LocalEngine("uniform", model, chatlm.load_tokenizer("uniform", folder))


def generate(engine: Engine, request: Request) -> tuple[str, Finished, list[Delta]]:
    with closing(engine.stream(request)) as events:
        seen = list(events)
    assert isinstance(seen[-1], Finished)
    deltas = [event for event in seen if isinstance(event, Delta)]
    return "".join(delta.text for delta in deltas), seen[-1], deltas


def no_end(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A logits processor that leaves only the letters."""
    letters = [BYTES.index(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    mask = torch.full_like(scores, -math.inf)
    mask[:, letters] = 0.0
    return scores + mask


def request_of(text: str, **changes: Any) -> Request:
    sampling = Sampling(**{"temperature": 1.0, "seed": 1, "max_tokens": 20, **changes})
    return Request((Message("user", text),), sampling, logits_processors=(no_end,))


def test_a_plugins_model_is_sampled_by_seed(engine: LocalEngine) -> None:
    text, end, deltas = generate(engine, request_of("Hi"))
    assert (len(text), len(deltas), end.stop_reason) == (20, 20, StopReason.LENGTH)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz")
    assert generate(engine, request_of("Hi"))[0] == text
    assert generate(engine, request_of("Hi", seed=2))[0] != text
    stopped, end, _ = generate(engine, request_of("Hi", stop=(text[5:8],)))
    assert (stopped, end.stop_reason) == (text[:5], StopReason.STOP_STRING)


def test_a_plugins_model_reads_a_prompt_once(tmp_path: Path) -> None:
    model = UniformModel(VOCABULARY)
    engine = open_uniform(tmp_path, model)
    first = request_of("x" * 100)
    reply, end, _ = generate(engine, first)
    prompt = end.usage.prompt_tokens
    assert (end.usage.cached_tokens, sum(model.prefilled)) == (0, prompt)
    second = dataclasses.replace(
        first, messages=(*first.messages, Message("assistant", reply), Message("user", "More"))
    )
    _, end, _ = generate(engine, second)
    assert end.usage.cached_tokens == 64
    assert sum(model.prefilled) == prompt + end.usage.prompt_tokens - 64


def test_turns_past_a_full_context_reuse_what_was_read_ahead(tmp_path: Path) -> None:
    model = UniformModel(VOCABULARY)
    model.info = dataclasses.replace(model.info, context_length=2048)
    engine = open_uniform(tmp_path, model)
    sampling = Sampling(temperature=0.0, max_tokens=1)
    messages: list[Message] = []
    usages, read_ahead = [], []
    for number in range(60):
        messages.append(Message("user", f"Question {number}: what do rivers do in spring?"))
        _, end, _ = generate(engine, Request(tuple(messages), sampling))
        if engine.preview(Request(tuple(messages), sampling)).omitted:
            usages.append(end.usage)
        messages.append(Message("assistant", "They carry melting snow. " * (3 + number % 5)))
        model.prefilled.clear()
        list(engine.read_ahead(Request(tuple(messages), sampling)))
        read_ahead.append(sum(model.prefilled))
    assert len(usages) >= 40
    assert min(usage.cached_tokens for usage in usages) >= 512
    assert max(usage.prompt_tokens - usage.cached_tokens for usage in usages) < 300
    whole = [tokens for tokens in read_ahead if tokens > 1000]  # a group of turns was dropped
    assert 1 <= len(whole) <= len(usages) / 4


def test_a_plugins_model_has_previews_logprobs_and_batches(engine: LocalEngine) -> None:
    request = request_of("Hi")
    preview = engine.preview(request)
    assert "".join(token.text for token in preview.tokens) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    text, _, deltas = generate(engine, dataclasses.replace(request, logprobs=0))
    logprobs = [token.logprob for delta in deltas for token in delta.logprobs]
    assert logprobs == pytest.approx([-math.log(VOCABULARY)] * 20)
    events = [event for _, event in chatlm.stream_many(engine, [request, request])]
    texts = [event.text for event in events if isinstance(event, Delta)]
    assert sorted("".join(texts)) == sorted(2 * text)


def test_a_model_without_adapters_says_so(tmp_path: Path) -> None:
    engine = open_uniform(tmp_path, UniformModel(VOCABULARY))
    with pytest.raises(EngineError, match="poet"):
        generate(engine, dataclasses.replace(request_of("Hi"), adapter="poet"))


IMAGE = Image("image/png", 4, 4, "0" * 64)
CALL = ToolCall("1", "clock", "{}")


def local(folder: Path) -> Engine:
    return open_uniform(folder, UniformModel(VOCABULARY))


def scripted(folder: Path) -> Engine:
    return ScriptedEngine("Yes.")


def text_only(folder: Path) -> Engine:
    engine = ScriptedEngine("Yes.")
    engine.info = dataclasses.replace(engine.info, accepts=frozenset({"text"}))
    return engine


@pytest.mark.parametrize(
    ("open_engine", "part"), [(local, IMAGE), (scripted, IMAGE), (text_only, CALL)]
)
def test_a_part_that_an_engine_does_not_accept_is_refused(
    tmp_path: Path, open_engine: Callable[[Path], Engine], part: Image | ToolCall
) -> None:
    engine = open_engine(tmp_path)
    request = Request((Message("user", (Text("What is this?"), part)),))
    named = f"{engine.info.model} does not accept .*{part.type}"
    with pytest.raises(UsageError, match=named):
        next(engine.stream(request))
    with pytest.raises(UsageError, match=named):
        engine.preview(request)
    with pytest.raises(UsageError, match=named):
        list(chatlm.stream_many(engine, [request]))


def test_a_part_is_refused_before_an_engine_of_a_plugin_gets_it() -> None:
    class Careless(ScriptedEngine):
        def stream(self, request: Request) -> Any:
            raise AssertionError("it was sent")

    with pytest.raises(UsageError, match="image"):
        list(reply_events(Careless(), Request((Message("user", (IMAGE,)),)), NoOffers()))


def test_accepted_parts_and_reasoning_are_not_refused() -> None:
    engine = ScriptedEngine("A cat.")
    engine.info = dataclasses.replace(engine.info, accepts=frozenset({"text", "image"}))
    thought = Message("assistant", (Reasoning("Hm."), Text("A dog.")))
    request = Request((Message("user", (IMAGE,)), thought, Message("user", "Really?")))
    assert generate(engine, request)[0] == "A cat."
