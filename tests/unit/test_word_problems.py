"""The generated word problems are right, and adapters train on all kinds in all ways."""

from __future__ import annotations

import itertools
import re

import pytest

from benchmarks.methods import training_rows
from benchmarks.word_problems import KINDS, problems

KIND = re.compile(r"bags|an hour|bus|hats|fence|equally")


@pytest.mark.parametrize("words", ["train", "test"])
def test_steps_and_expression_lead_to_the_answer(words: str) -> None:
    for problem in itertools.islice(problems(words, 3), 60):
        assert eval(problem.expression) == problem.answer
        for step in problem.steps:
            left, right = step.split(" = ")
            assert eval(left) == int(right)
        assert problem.steps[-1].endswith(f"= {problem.answer}")


def test_training_and_test_share_no_problem() -> None:
    train = {each.question for each in itertools.islice(problems("train", 0), 600)}
    assert not train & {each.question for each in itertools.islice(problems("test", 1), 600)}


def test_adapters_train_on_all_kinds_in_all_ways() -> None:
    found: dict[str, set[str]] = {"plain": set(), "steps": set(), "program": set()}
    count = 0
    for row in training_rows(120, "Use the tool."):
        messages = [each for each in row["messages"] if each["role"] != "system"]
        for asked, said in itertools.pairwise(messages):
            if asked["role"] == "user" and not asked["content"].startswith("<tool_response>"):
                way = (
                    "program"
                    if "<tool_call>" in said["content"]
                    else "steps"
                    if "step by step" in asked["content"]
                    else "plain"
                )
                match = KIND.search(asked["content"])
                assert match is not None
                found[way].add(match[0])
                count += 1
    assert {way: len(kinds) for way, kinds in found.items()} == dict.fromkeys(found, KINDS)
    assert count > 100
