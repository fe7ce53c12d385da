"""The questions of the benchmark of tools are not those that adapters train on."""

from __future__ import annotations

import random
import re

from benchmarks.tools import SELECTION, is_right, sums
from benchmarks.tools_chat import GROUPS, chat_questions
from benchmarks.tools_data import TOOLS
from benchmarks.tools_phrases import DOCUMENT_PATTERNS, FACTS, sum_question
from benchmarks.tools_replies import ask_with_calls, run_calculator, wilson
from chatlm import Message, Request
from chatlm.engines.scripted import ScriptedEngine
from chatlm.types.parts import ToolCall, ToolResult
from chatlm_tools.calculator import calculate


def runs_of_words(text: str) -> set[tuple[str, ...]]:
    """Return all runs of five words, with all numbers alike."""
    words = re.findall(r"[a-z#'%]+", re.sub(r"\d[\d.,]*", "#", text.lower()))
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


def test_training_and_benchmark_share_no_wording() -> None:
    chance = random.Random(1)
    train = {sum_question(chance)[0] for _ in range(2000)}
    train.update(*GROUPS)
    train |= {form.format(topic) for topic, _, _ in FACTS for form in DOCUMENT_PATTERNS}
    known = set().union(*map(runs_of_words, train))
    asked = [text for text, _ in SELECTION] + [text for text, _ in sums(200, 25)]
    assert not train & set(asked)
    assert [text for text in asked if runs_of_words(text) & known] == []


def test_questions_that_need_no_tool_differ_and_come_from_all_groups() -> None:
    asked = chat_questions(random.Random(3), 80)
    assert len(set(asked)) == 80
    assert all(len(set(asked) & set(group)) == 80 // len(GROUPS) for group in GROUPS)


def test_the_calculator_knows_all_training_expressions() -> None:
    chance = random.Random(2)
    for _ in range(300):
        _, expression, answer = sum_question(chance)
        assert (answer or "{}").format(calculate(expression))


def test_answers_are_judged_by_their_last_number() -> None:
    (_, value), *_ = sums(1, 25)
    assert is_right(f"1 and 2 make {value}.", value)
    assert not is_right(f"It is {value + 1}.", value)
    assert not is_right("I do not know.", value)


def test_a_call_is_run_and_answered_from() -> None:
    call = ToolCall("", "calculator", '{"expression": "2 + 2"}')
    engine = ScriptedEngine((call,), "It is 4.")
    request = Request((Message("user", "2 and 2?"),), tools=TOOLS)
    (output,) = ask_with_calls(engine, [request], run_calculator)
    assert (output.text, [each.name for each in output.calls]) == ("It is 4.", ["calculator"])
    (result,) = engine.requests[-1].messages[-1].parts
    assert isinstance(result, ToolResult)
    assert result.text == "2 + 2 = 4"
    (output,) = ask_with_calls(ScriptedEngine("Four."), [request], run_calculator)
    assert (output.text, output.calls) == ("Four.", ())


def test_the_model_reads_why_a_call_failed() -> None:
    assert "zero" in run_calculator(ToolCall("", "calculator", '{"expression": "1 / 0"}'))
    assert "expression" in run_calculator(ToolCall("", "calculator", "{}"))


def test_intervals_of_shares() -> None:
    assert [round(each, 3) for each in wilson(164, 200)] == [0.761, 0.867]
    assert wilson(0, 20)[0] == 0.0
