"""The final answer of a reply, and when two answers count as the same."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from decimal import Decimal

from chatlm import EngineInfo, Message, Request, SchemaMismatch, check_schema, parse_reply

MAX_ANSWER_CHARACTERS = 80
"""Limit of an extracted answer."""

ANSWER_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "answer": {
            "anyOf": [
                {"type": "number"},
                {"type": "string", "minLength": 1, "maxLength": MAX_ANSWER_CHARACTERS},
            ]
        }
    },
    "required": ["answer"],
    "additionalProperties": False,
}

_ASK = "What is your final answer? Give only the answer itself, without units or explanation."

_NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def answer_request(request: Request, reply: str, info: EngineInfo) -> Request:
    """Return the request that asks for the final answer of a reply to `request`, by a schema."""
    check_schema(ANSWER_SCHEMA)
    sampling = dataclasses.replace(
        request.sampling,
        temperature=0.0,
        max_tokens=MAX_ANSWER_CHARACTERS,
        stop=(),
        frequency_penalty=0.0,
        presence_penalty=0.0,
        repetition_penalty=1.0,
        dry_multiplier=0.0,
        schema=json.dumps(ANSWER_SCHEMA),
        grammar=None,
        thinking="off" if "off" in info.thinking_levels else None,
    )
    messages = (*request.messages, Message("assistant", reply), Message("user", _ASK))
    return dataclasses.replace(request, messages=messages, sampling=sampling)


def read_answer(text: str) -> str:
    """Return the answer from the reply to `answer_request`; empty if it has none."""
    try:
        answer = parse_reply(ANSWER_SCHEMA, text)["answer"]
    except SchemaMismatch:  # cut by its length
        return ""
    return answer.strip() if isinstance(answer, str) else f"{answer:.15g}"


def vote_key(answer: str) -> str:
    """Return what is equal for equal answers: the number if there is exactly one, else the words.

    `$1,250.00` and `1250 dollars` are equal, and so are `Paris.` and `paris`.
    """
    numbers = _NUMBER.findall(answer)
    if len(numbers) == 1:
        value = Decimal(numbers[0].replace(",", "").replace("−", "-"))
        return f"{value.normalize():f}" if value else "0"
    return " ".join(re.findall(r"\w+", answer.casefold()))
