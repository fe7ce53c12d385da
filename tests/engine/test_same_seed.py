"""Same seed, same text, for each family: warm or cold, alone or in a batch, after a restart."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken

from chatlm.engines import saved_caches
from chatlm.engines.batching import stream_many
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.saved_caches import SavedCaches
from chatlm.types.events import PromptReady
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

MESSAGES = [
    FIRST,
    (*HISTORY, Message("user", "Where to?")),
    (Message("user", "Lakes are calm. " * 9),),
]


class Recorder:
    """A request, and what was chosen from which logits while it was answered."""

    def __init__(self, messages: tuple[Message, ...], chat: Path | None = None) -> None:
        self.tokens: list[int] = []
        self.logits: list[torch.Tensor] = []
        self.request = Request(
            messages, SAMPLING, stopping_criteria=(self._record,), cache_folder=chat
        )

    def _record(self, input_ids: torch.Tensor, scores: torch.Tensor) -> bool:
        self.tokens.append(int(input_ids[0, -1]))
        self.logits.append(scores[0])
        return False

    def assert_equals(self, other: Recorder) -> None:
        assert len(self.tokens) == SAMPLING.max_tokens
        assert self.tokens == other.tokens
        assert torch.equal(torch.stack(self.logits), torch.stack(other.logits))


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


def answer(engine: LocalEngine, recorder: Recorder) -> int:
    """Answer a request; return how many tokens of its prompt were cached."""
    events = list(engine.stream(recorder.request))
    assert isinstance(events[0], PromptReady)
    return events[0].cached_tokens


def test_a_seed_gives_the_same_reply(folder: Path, tmp_path: Path) -> None:
    cold, together = (list(map(Recorder, MESSAGES)) for _ in range(2))
    with closing(open_engine(folder)) as engine:
        for recorder in cold:
            engine._prompt_cache.clear()
            assert answer(engine, recorder) == 0
        warm = Recorder(MESSAGES[1], tmp_path / "chat")
        list(engine.read_ahead(dataclasses.replace(warm.request, messages=HISTORY)))
        assert answer(engine, warm) >= 64
        warm.assert_equals(cold[1])
        list(stream_many(engine, [recorder.request for recorder in together]))
        for recorder, expected in zip(together, cold, strict=True):
            recorder.assert_equals(expected)
    with closing(open_engine(folder)) as restarted:
        again = Recorder(MESSAGES[1], tmp_path / "chat")
        assert answer(restarted, again) >= 64
        again.assert_equals(cold[1])
