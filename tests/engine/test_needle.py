"""A fact in a long context is found, with a KV cache of 16 and of 8 bits."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import needle
from benchmarks.speed_sides import CPU
from chatlm.engines.local_engine import LocalEngine


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
