"""Speculative decoding with a draft model: the same text and seeds, and never much slower."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from chatlm.engines.batching import stream_many
from chatlm.engines.devices import Placement
from chatlm.engines.draft_length import MAX_DRAFT_TOKENS, DraftLength
from chatlm.engines.draft_loading import draft_problem
from chatlm.engines.draft_model import FIRST_TOKENS, MAX_UNREAD, DraftModel
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.memory_plan import budget_memory
from chatlm.engines.samplers import Sampler
from chatlm.types.events import Delta, Finished
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import DEFAULT_SAMPLING, Sampling
from tests.engine import adapter_files
from tests.engine.test_native import native_model
from tests.gguf_files import make_folder, save_gguf

CPU = Placement({"": "cpu"}, torch.bfloat16)

RIVERS = (Message("user", "Rivers flow to the sea. " * 3),)

LAKES = (Message("user", "Lakes are calm, and seldom deep. " * 2),)

PENALTIES = Sampling(
    temperature=0.8, seed=3, max_tokens=40, top_k=40, frequency_penalty=0.4,
    repetition_penalty=1.2, dry_multiplier=0.8, xtc_probability=0.5, xtc_threshold=0.1,
)  # fmt: skip

SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer"}, "kind": {"enum": ["river", "lake"]}},
    "required": ["size", "kind"],
}

REQUESTS = {
    "greedy": Request(RIVERS, Sampling(temperature=0.0, max_tokens=40)),
    "sampled": Request(RIVERS, Sampling(temperature=1.0, seed=7, max_tokens=40), logprobs=2),
    "penalties": Request(RIVERS, PENALTIES),
    "schema": Request(
        RIVERS, Sampling(temperature=1.0, seed=2, max_tokens=60, schema=json.dumps(SCHEMA))
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make the folder of a tiny random model."""

    def make(variant: str) -> Path:
        place = tmp_path_factory.mktemp("model")
        return make_folder(save_gguf(place / "tiny.gguf", variant))

    return make


@pytest.fixture(scope="module")
def draft_folders(folders: Callable[..., Path]) -> dict[str, Path]:
    return {"alike": folders("llama"), "unlike": folders("llama tied")}


def open_engine(folder: Path, draft: Path | None = None, **settings: Any) -> Any:
    return LocalEngine.from_folder(
        "tiny", folder, CPU, draft_model=("small", draft) if draft else None, **settings
    )


def events_of(engine: LocalEngine, request: Request) -> list[tuple[Any, ...]]:
    """What a reply consists of, without times."""
    engine._prompt_cache.clear()
    return [
        (event.text, event.part, event.logprobs)
        if isinstance(event, Delta)
        else (event.stop_reason, event.usage.completion_tokens)
        for event in engine.stream(request)
        if isinstance(event, Delta | Finished)
    ]


def count_steps(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of tokens of each step of the large model."""
    steps: list[int] = []
    decode = engine._adapters.model.decode

    def counted(caches: Any, ids: Any) -> torch.Tensor:
        steps.append(sum(map(len, ids)))
        logits: torch.Tensor = decode(caches, ids)
        return logits

    monkeypatch.setattr(engine._adapters.model, "decode", counted)
    return steps


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft before each step, whatever it costs."""
    monkeypatch.setattr(DraftLength, "choose", lambda self, limit, unread=1: min(limit, 5))


@pytest.mark.parametrize("variant", ["llama", "lfm2", "qwen35", "gpt-oss"])
@pytest.mark.parametrize("kind", ["alike", "unlike"])
def test_replies_do_not_depend_on_the_draft_model(
    folders: Callable[..., Path],
    draft_folders: dict[str, Path],
    variant: str,
    kind: str,
    always: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = folders(variant)
    with (
        closing(open_engine(folder)) as plain,
        closing(open_engine(folder, draft_folders[kind])) as drafting,
    ):
        assert drafting.info.draft_model == "small"
        steps = count_steps(drafting, monkeypatch)
        for request in REQUESTS.values():
            expected = events_of(plain, request)
            assert events_of(drafting, request) == expected
        assert 6 in steps
        # the second turn finds the draft model's cache with another text
        longer = dataclasses.replace(REQUESTS["sampled"], messages=LAKES)
        assert events_of(drafting, longer) == events_of(plain, longer)


def test_a_model_that_agrees_saves_most_steps(
    folders: Callable[..., Path],
    draft_folders: dict[str, Path],
    always: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(open_engine(folders("llama"), draft_folders["alike"])) as engine:
        for name in ("greedy", "sampled", "penalties"):
            steps = count_steps(engine, monkeypatch)
            short = (Message("user", "Rivers"),)  # all of which the draft model reads
            made = events_of(engine, dataclasses.replace(REQUESTS[name], messages=short))[-1][1]
            assert made >= 10
            assert len(steps) <= made / 2, name


def test_adapters_and_batches_give_the_same_text(
    folders: Callable[..., Path], draft_folders: dict[str, Path], always: None, tmp_path: Path
) -> None:
    folder = folders("llama")
    adapter = adapter_files.save(tmp_path / "adapter", folder, strength=0.5)
    settings: Any = {"find_adapter": lambda name: adapter}
    requests = [
        dataclasses.replace(REQUESTS["sampled"], adapter="mine"),
        dataclasses.replace(REQUESTS["sampled"], messages=LAKES),
        REQUESTS["penalties"],
    ]
    with (
        closing(open_engine(folder, **settings)) as plain,
        closing(open_engine(folder, draft_folders["alike"], **settings)) as drafting,
    ):
        expected = [events_of(plain, request) for request in requests]
        assert [events_of(drafting, request) for request in requests] == expected
        texts = ["", "", ""]
        for index, event in stream_many(drafting, requests):
            texts[index] += event.text if isinstance(event, Delta) else ""
        assert texts == ["".join(part[0] for part in each[:-1]) for each in expected]


def test_a_sampler_can_be_forked_without_a_trace() -> None:
    logits = torch.randn(200, generator=torch.Generator().manual_seed(1))

    def make() -> Sampler:
        return Sampler(
            PENALTIES.with_fallback(DEFAULT_SAMPLING),
            torch.tensor([1, 2, 3]),
            200,
            torch.device("cpu"),
            lambda token: bytes([token]),
            lambda text: [],
        )

    expected = [alone(logits) for alone in [make()] for _ in range(60)]
    sampler, made = make(), []
    for at in range(60):
        ahead = sampler.fork()
        assert [ahead(logits) for _ in range(4)][: 60 - at] == expected[at : at + 4]
        made.append(sampler(logits))
    assert made == expected


def test_a_draft_model_reads_little_at_once(
    folders: Callable[..., Path], always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache follows a text that grows, is cut off, replaced, and gets too long."""
    monkeypatch.setattr("chatlm.engines.draft_model.MAX_TEXT", 100)
    monkeypatch.setattr("chatlm.engines.draft_model.MAX_UNREAD", 32)
    model = native_model(folders("llama"), torch.float32, "bf16")
    drafts = DraftModel("small", model)
    read: list[list[int]] = []
    draft = drafts._draft

    def seen(text: list[int], *arguments: Any) -> list[int]:
        read.append(text)
        return draft(text, *arguments)

    monkeypatch.setattr(drafts, "_draft", seen)
    one = [(37 * number) % 250 for number in range(300)]
    other = [(11 * number) % 250 for number in range(300)]
    sampler = Sampler(
        Sampling(temperature=0.0).with_fallback(DEFAULT_SAMPLING),
        torch.tensor(one),
        320,
        torch.device("cpu"),
        lambda token: b"",
        lambda text: [],
    )

    def newest(ids: list[int], count: int) -> list[int]:
        return [*ids[:FIRST_TOKENS], *ids[-count:]]

    expected = {
        10: one[:10],
        12: one[:12],
        40: one[:40],
        39: one[:39],
        60: one[:60],
        90: one[:90],
        99: one[:99],
        101: newest(one[:101], 32),
        110: newest(one[:110], 41),
        290: newest(one[:290], 32),
    }
    for length, text in expected.items():
        assert len(drafts.draft(one[:length], model.new_cache(), sampler, 320, 4)) == 4
        assert read[-1] == text
        fresh = model.new_cache().prefill(text)
        assert drafts.draft(one[:length], model.new_cache(), sampler, 320, 1) == [
            int(fresh.argmax())
        ]
    drafts.draft(other[:280], model.new_cache(), sampler, 320, 4)
    assert read[-1] == newest(other[:280], 32)
    drafts.draft(other[:20], model.new_cache(), sampler, 320, 4)
    assert read[-1] == other[:20]


# --- how long drafts are ---------------------------------------------------------------------


def simulate(
    acceptance: float,
    draft: float,
    extra: float,
    tokens: int,
    seed: int,
    known: DraftLength | None = None,
    disturbance: float = 0.0,
) -> float:
    """Return the speed of a reply relative to one without drafts, reading the prompt included.

    Args:
        acceptance: how likely a drafted token is chosen.
        draft: time of a drafted token, relative to a step with one token, as the next.
        extra: time of a further token in a step.
        tokens: of the reply.
        seed: of the draws.
        known: what earlier replies have shown; None for the first one.
        disturbance: by how much up to three steps in succession may seem to take longer, since
            something else runs meanwhile; such times do not count here.
    """
    length, draws = known or DraftLength(), random.Random(seed)
    length.begin_reply()
    made, seconds, unread, disturbed = 0, 0.0, MAX_UNREAD, 0
    others = random.Random(seed + 99)
    while made < tokens:
        disturbed = disturbed - 1 if disturbed else others.choice([0] * 27 + [1, 2, 3])
        factor = 1.0 + disturbance * others.random() if disturbed else 1.0
        count = length.choose(min(15, tokens - made), unread)
        reading = unread * draft / 10 if count and unread > 16 else 0.0
        if count:
            if reading:
                length.record_reading(unread, factor * reading)
            unread = 0
            length.record_draft(count, factor * count * draft)
        length.record_step(1 + count, factor * (1 + extra * count))
        accepted = 0
        while accepted < count and draws.random() < acceptance:
            accepted += 1
        cycle = 1 + count * (draft + extra)
        if count:
            length.record_outcome(count, accepted, factor * (cycle + reading))
        else:
            length.record_plain_cycle(factor * cycle)
        seconds += cycle + reading
        unread += 1
        made += min(1 + accepted, tokens - made)
    prompt = MAX_UNREAD / 10
    return (prompt + tokens) / (prompt + seconds)


@pytest.mark.parametrize("disturbance", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("tokens", [24, 35, 64, 128, 512])
def test_no_reply_is_much_slower_with_drafts(tokens: int, disturbance: float) -> None:
    for acceptance in (0.0, 0.3, 0.6, 0.8, 0.95, 1.0):
        for draft in (0.05, 0.15, 0.35):
            for extra in (0.02, 0.2, 0.6, 1.0):
                speeds = [
                    simulate(acceptance, draft, extra, tokens, seed, disturbance=disturbance)
                    for seed in range(3)
                ]
                assert min(speeds) >= 0.9, (acceptance, draft, extra)


def test_nor_is_one_after_others_in_which_drafts_paid() -> None:
    for draft in (0.05, 0.15, 0.35):
        for extra in (0.02, 0.1, 0.2, 0.6, 1.0):
            known = DraftLength()
            for seed in range(12):
                kind, tokens = (0.95, 96) if seed % 3 else (0.0, 35)
                assert simulate(kind, draft, extra, tokens, seed, known) >= 0.9, (draft, extra)


def test_few_drafts_are_made_in_vain_however_little_time_they_seem_to_take() -> None:
    length = known_length(0.001)
    drafted = []
    for step in range(100):
        if count := length.choose(8):
            drafted.append((step, count))
            length.record_outcome(count, 0, 0.001)
        else:
            length.record_plain_cycle(1.0)
    assert [step for step, _ in drafted] == [0, 2, 6, 14, 30, 46, 62, 78, 94]
    assert max(count for _, count in drafted) == 2


def test_drafts_are_compared_with_new_steps_without_any() -> None:
    length, steps = known_length(0.01), []
    for _ in range(40):
        steps.append(length.choose(1))
        if steps[-1]:
            length.record_outcome(1, 1, 1.01)
        else:
            length.record_plain_cycle(1.0)
    assert steps == [1, 1, 1, 1, 1, 1, 1, 1, 0] * 4 + [1] * 4


def known_length(draft: float) -> DraftLength:
    """One that knows the times of steps, of which one without a draft takes 1."""
    length = DraftLength()
    for _ in range(3):
        length.record_step(1, 1.0)
        length.record_plain_cycle(1.0)
    length.record_draft(1, draft)
    length.record_step(2, 1 + draft)
    return length


def test_drafts_that_are_accepted_pay() -> None:
    assert simulate(1.0, 0.1, 0.1, 256, 1) > 2.4
    assert simulate(0.8, 0.1, 0.1, 256, 1) > 1.5
    assert simulate(0.7, 0.05, 0.3, 256, 1) > 1.05


def test_replies_after_a_loss_are_left_alone_ever_longer() -> None:
    length = known_length(0.01)

    def left_out() -> int:
        """How many replies there are without drafts before the next with some."""
        for count in range(100):
            length.begin_reply()
            if length.choose(4):
                return count
        raise AssertionError

    assert left_out() == 0
    for expected in (1, 3, 7, 15, 15):
        length.record_outcome(1, 0, 1.5)
        assert left_out() == expected
    length.record_outcome(1, 1, 1.5)
    assert left_out() == 0


def test_a_text_is_read_only_if_drafts_save_more_and_may_lose_so_much() -> None:
    length = known_length(0.1)
    length.record_reading(100, 10.0)
    assert length.choose(4) and length.choose(4, 8)
    assert not length.choose(4, 50)
    length.begin_reply()
    for _ in range(8):
        length.record_outcome(2, 2, 1.4)
    length.record_plain_cycle(1.0)
    assert length.choose(4, 50)
    assert not length.choose(4, 200)


def test_drafts_are_not_longer_than_allowed() -> None:
    length = DraftLength()
    assert length.choose(0) == length.choose(15) == 0  # nothing is known of the large model
    for _ in range(3):
        assert length.choose(1) == 0
        length.record_step(1, 1.0)
        length.record_plain_cycle(1.0)
    assert length.choose(1) == 1
    assert length.choose(0) == 0
    length.record_draft(1, 0.01)
    length.record_step(2, 1.01)
    for _ in range(20):
        length.record_outcome(4, 4, 1.1)
    length.record_plain_cycle(1.0)
    assert [length.choose(limit) for limit in (0, 1, 3, 15)] == [0, 1, 3, MAX_DRAFT_TOKENS]


# --- which models can draft ------------------------------------------------------------------


def problem(folder: Path, draft: Path, engine: str = "auto", weights: str = "auto") -> str:
    return draft_problem("small", folder, draft, CPU, engine, weights)


def test_a_model_that_cannot_draft_is_refused_with_the_reason(
    folders: Callable[..., Path], draft_folders: dict[str, Path]
) -> None:
    folder, draft = folders("llama"), draft_folders["alike"]
    assert problem(folder, draft) == ""
    assert "itself" in problem(folder, folder)
    assert "recurrent" in problem(folder, folders("lfm2"))
    for settings in ({"engine": "transformers"}, {"weights": "float32"}):
        assert "without another result" in problem(folder, draft, **settings)

    with closing(open_engine(folder, folders("lfm2"))) as engine:
        assert engine.info.draft_model == ""
        assert any("small is not used: its recurrent" in note for note in engine.info.notes)
        assert events_of(engine, REQUESTS["greedy"])


def test_another_tokenizer_is_refused(
    folders: Callable[..., Path], draft_folders: dict[str, Path], tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(draft_folders["alike"], changed)
    file = changed / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    assert '"<|im_start|>"' in text
    file.write_text(text.replace("<|im_start|>", "<|begin|>"), encoding="utf-8")
    assert problem(folders("llama"), changed) == "it has another tokenizer"


def test_its_memory_counts(folders: Callable[..., Path], draft_folders: dict[str, Path]) -> None:
    folder = folders("llama")
    without = budget_memory("tiny", folder, CPU)
    with_draft = budget_memory("tiny", folder, CPU, draft_model=draft_folders["alike"])
    assert without
    assert with_draft
    assert without.draft_model == 0
    assert with_draft.draft_model > without.weights // 2
    assert "draft model" in dict(with_draft.rows())
    assert "draft model" not in dict(without.rows())
    parts = with_draft.weights + with_draft.kv_cache + with_draft.prompt_cache
    assert with_draft.total == parts + with_draft.program + with_draft.draft_model
