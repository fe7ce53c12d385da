"""A fact in a long context is found: with a KV cache of 16 and of 8 bits, windows and YaRN."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch

from benchmarks import needle, recall_model
from benchmarks.speed_sides import CPU
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.native.kv_cache import KVFormat
from tests.engine.test_native import native_model

DEPTHS = tuple((number + 0.5) / 10 for number in range(10))


def test_a_fact_in_the_middle_of_a_prompt_is_found(
    engine: LocalEngine, default_model: Path
) -> None:
    with closing(LocalEngine.from_folder("m", default_model, CPU, kv_cache="int8")) as rounded:
        for each in (engine, rounded):
            answers = [needle.ask(each, 600, depth) for depth in (0.9, 0.4, 0.1)]
            assert all(400 < answer.tokens < 700 for answer in answers)
            assert [answer.found for answer in answers] == [True] * 3, answers


@pytest.mark.slow
def test_facts_in_a_long_prompt_are_found(default_model: Path) -> None:
    for kv_cache in ("auto", "int8"):
        opened = LocalEngine.from_folder("m", default_model, CPU, kv_cache=kv_cache)
        answers = needle.ask_all(opened, (2000,), (0.1, 0.3, 0.5, 0.7, 0.9))
        assert all(answer.found for answer in answers), answers


@pytest.mark.parametrize("kv_cache", ["auto", "int8"])
@pytest.mark.parametrize("name", recall_model.KINDS)
def test_windows_and_yarn_find_what_they_can_see(name: str, kv_cache: KVFormat) -> None:
    answers = needle.recall_all(recall_model.KINDS[name], kv_cache, (800,), DEPTHS)
    assert all(answer.found for answer in answers), answers


@pytest.mark.slow
@pytest.mark.parametrize("kv_cache", ["auto", "int8"])
@pytest.mark.parametrize("name", recall_model.KINDS)
def test_windows_and_yarn_find_it_in_a_long_prompt(name: str, kv_cache: KVFormat) -> None:
    answers = needle.recall_all(recall_model.KINDS[name], kv_cache, (7000,), DEPTHS)
    assert all(answer.found for answer in answers), answers


def test_a_window_ends_at_the_token(tmp_path: Path) -> None:
    kind = recall_model.KINDS["windows alone"]
    model = native_model(recall_model.save(tmp_path, kind), torch.bfloat16, "bf16")
    ids, distance = recall_model.prompt(1000, 0.3)
    at = len(ids) - 1 - distance  # of the fact's first token
    for moved, is_found in ((recall_model.WINDOW - 1, True), (recall_model.WINDOW, False)):
        own = [*ids[: at + 100], *ids[at + 100 - moved + distance :]]
        assert len(own) - 1 - at == moved
        assert recall_model.recalls(model, own) == is_found


def test_without_yarn_the_model_for_it_finds_nothing(tmp_path: Path) -> None:
    kind = recall_model.KINDS["YaRN, no window"]
    folder = recall_model.save(tmp_path, kind)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
    (folder / "config.json").write_text(json.dumps(config))
    model = native_model(folder, torch.bfloat16, "bf16")
    assert not recall_model.recalls(model, recall_model.prompt(4000, 0.1)[0])
