"""Chain of thought: the model writes its steps before its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from contextlib import closing

from chatlm import Engine, EngineEvent, Message, Request, Text, UsageError

STEP_BY_STEP = (
    "Think step by step. Write down each step, then the final answer on a line of its own that "
    "begins with Answer:"
)


def stream_chain(
    engine: Engine, request: Request, argument: str
) -> Generator[EngineEvent, None, None]:
    """Generate a reply that has its steps; a model that thinks by itself is asked as it is.

    Raises:
        UsageError: there is an argument.
    """
    if argument:
        raise UsageError("The method chain takes no argument", hint="Write: chain")
    asked = request if engine.info.thinks else with_instruction(request, STEP_BY_STEP)
    with closing(engine.stream(asked)) as events:
        yield from events


def with_instruction(request: Request, instruction: str) -> Request:
    """Return the request with an instruction after the user's message.

    An answer that must fit a schema or grammar has no room for steps, so its message stays as it
    is.
    """
    if request.sampling.schema or request.sampling.grammar:
        return request
    *before, last = request.messages
    message = Message(last.role, (*last.parts, Text(f"\n\n{instruction}")))
    return dataclasses.replace(request, messages=(*before, message))
