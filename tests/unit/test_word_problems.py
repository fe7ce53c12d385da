"""The generated word problems are right, and adapters train on all kinds in all ways."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.methods import training_rows
from benchmarks.word_problems import KINDS, Words, problems
from tests.unit.test_tools_benchmark import runs_of_words


@pytest.mark.parametrize("words", ["train", "test"])
def test_steps_and_expression_lead_to_the_answer(words: Words) -> None:
    for problem in itertools.islice(problems(words, 3), 60):
        assert eval(problem.expression) == problem.answer
        for step in problem.steps:
            left, right = step.split(" = ")
            assert eval(left) == int(right)
        assert problem.steps[-1].endswith(f"= {problem.answer}")


def test_training_and_test_share_no_wording() -> None:
    train = {each.question for each in itertools.islice(problems("train", 0), 600)}
    known = set().union(*map(runs_of_words, train))
    for problem in itertools.islice(problems("test", 1), 400):
        assert runs_of_words(problem.question) & known == set()


def test_adapters_train_on_all_kinds_in_all_ways() -> None:
    kinds = {each.question: each.kind for each in itertools.islice(problems("train", 0), 120)}
    found: dict[str, set[str]] = {"plain": set(), "steps": set(), "program": set()}
    count = 0
    for row in training_rows(120, "Use the tool."):
        messages = [each for each in row["messages"] if each["role"] != "system"]
        for asked, said in itertools.pairwise(messages):
            question, _, instruction = asked["content"].partition("\n\n")
            if asked["role"] == "user" and question in kinds:
                way = "steps" if instruction else "plain"
                way = "program" if "<tool_call>" in said["content"] else way
                found[way].add(kinds[question])
                count += 1
    assert {way: len(kinds) for way, kinds in found.items()} == dict.fromkeys(found, len(KINDS))
    assert count > 100
