"""Same seed, same text, for each family: warm or cold, alone or in a batch, after a restart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from chatlm.engines import saved_caches
from chatlm.engines.batching import stream_many
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.saved_caches import SavedCaches
from chatlm.types.events import Delta, EngineEvent, PromptReady
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.engine import tiny
from tests.engine.byte_model import END, byte_tokenizer
from tests.engine.test_native import native_model

SAMPLING = Sampling(temperature=1.0, seed=11, max_tokens=10, logit_bias=((256, -100.0),))
"""Without the token that ends a reply."""

FIRST = (Message("user", "Rivers flow to the sea. " * 4),)

HISTORY = (*FIRST, Message("assistant", "They do, and slowly. " * 3))

REQUESTS = [
    Request(FIRST, SAMPLING, logprobs=1),
    Request((*HISTORY, Message("user", "Where to?")), SAMPLING, logprobs=1),
    Request((Message("user", "Lakes are calm. " * 9),), SAMPLING, logprobs=1),
]

Reply = list[tuple[Any, ...]]


@pytest.fixture(scope="module", params=[*tiny.CONFIGS, *tiny.FAMILIES])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model"), request.param, vocab_size=300)


@pytest.fixture(autouse=True)
def saves_short_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_caches, "MIN_TOKENS", 64)


def open_engine(folder: Path) -> LocalEngine:
    """In bfloat16, where a different order of computation gives different bits."""
    model = native_model(folder, torch.bfloat16, "int8")
    tokenizer = byte_tokenizer(
        AddedToken(END, special=True, normalized=False),
        template="{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}",
    )
    return LocalEngine(
        "tiny", model, tokenizer, context=480, saved_caches=SavedCaches("tiny", 1_000_000_000)
    )


def tokens_of(events: Iterator[EngineEvent] | list[EngineEvent]) -> Reply:
    """Each token with its log-probability, which shows a difference in any bit."""
    return [(event.text, event.logprobs) for event in events if isinstance(event, Delta)]


def test_a_seed_gives_the_same_reply(folder: Path, tmp_path: Path) -> None:
    with closing(open_engine(folder)) as engine:
        cold = []
        for request in REQUESTS:
            engine._prompt_cache.clear()
            cold.append(tokens_of(engine.stream(request)))
        assert [sum(len(logprobs) for _, logprobs in reply) for reply in cold] == [10, 10, 10]
        engine._prompt_cache.clear()
        assert tokens_of(engine.stream(REQUESTS[0])) == cold[0]
        saved = dataclasses.replace(REQUESTS[1], cache_folder=tmp_path / "chat")
        list(engine.read_ahead(dataclasses.replace(saved, messages=HISTORY)))
        events = list(engine.stream(saved))
        assert isinstance(events[0], PromptReady)
        assert events[0].cached_tokens >= 64
        assert tokens_of(events) == cold[1]
        together: list[list[EngineEvent]] = [[], [], []]
        for index, event in stream_many(engine, REQUESTS):
            together[index].append(event)
        assert [tokens_of(each) for each in together] == cold
    with closing(open_engine(folder)) as restarted:
        events = list(restarted.stream(saved))
        assert isinstance(events[0], PromptReady)
        assert events[0].cached_tokens >= 64
        assert tokens_of(events) == cold[1]
