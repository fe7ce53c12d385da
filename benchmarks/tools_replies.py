"""Replies of many requests at once, with the calls of tools that they ask for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from chatlm import Delta, Finished, Message, Request, UsageError
from chatlm.engines.batching import stream_many
from chatlm.testing import run_tool
from chatlm.types.engine import Engine
from chatlm.types.parts import ToolCall, ToolResult
from chatlm.types.tools import parse_arguments
from chatlm_tools.calculator import calculator


@dataclasses.dataclass(frozen=True)
class Output:
    """One reply of the model."""

    text: str
    calls: tuple[ToolCall, ...]
    tokens: int
    """Generated, those of calls included."""


def ask_together(engine: Engine, requests: Sequence[Request]) -> list[Output]:
    """Answer requests together."""
    texts = [""] * len(requests)
    ends: dict[int, Finished] = {}
    for index, event in stream_many(engine, requests):
        if isinstance(event, Delta) and event.part == "text":
            texts[index] += event.text
        elif isinstance(event, Finished):
            ends[index] = event
    return [
        Output(text, ends[index].tool_calls, ends[index].usage.completion_tokens)
        for index, text in enumerate(texts)
    ]


def ask_with_calls(
    engine: Engine, requests: Sequence[Request], run: Callable[[ToolCall], str]
) -> list[Output]:
    """Answer requests together, run the first call of each, and let the model answer from it.

    Args:
        engine: the model.
        requests: with tools, or without.
        run: returns the result of a call, as the model reads it.

    Returns:
        the last text of each, with the first calls and the tokens of both.
    """
    outputs = ask_together(engine, requests)
    called = [index for index, output in enumerate(outputs) if output.calls]
    again = []
    for index in called:
        call = dataclasses.replace(outputs[index].calls[0], id="call_1")
        result = ToolResult(call.id, call.name, run(call))
        step = Message("assistant", parts=(call,)), Message("tool", parts=(result,))
        messages = (*requests[index].messages, *step)
        again.append(dataclasses.replace(requests[index], messages=messages))
    for index, last in zip(called, ask_together(engine, again) if again else (), strict=True):
        first = outputs[index]
        outputs[index] = Output(last.text, first.calls, first.tokens + last.tokens)
    return outputs


def run_calculator(call: ToolCall) -> str:
    """Run a call of the calculator as a chat would; other tools find nothing."""
    if call.name != calculator.name:
        return "Nothing in manual is about that."
    try:
        return run_tool(calculator, parse_arguments(call.arguments)).text
    except UsageError as error:
        return error.message


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share."""
    z = 1.96
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / count / 2) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)
