"""Dialogues in which a model calls tools, to train an adapter on.

`python -m benchmarks.tools_data FILE` writes them as `chatlm adapters train --data FILE` reads
them. The tools are described in the system prompt as chatlm does it for models whose template knows
none. Questions are generated from patterns; the benchmark `benchmarks.tools` uses other patterns.
Replies that need no tool are the default model's own, so that it does not forget how to answer.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.structured import engine_of
from benchmarks.structured_replies import collect
from chatlm.engines.batching import stream_many
from chatlm.types.messages import Message
from chatlm.types.requests import Request, ToolDefinition
from chatlm.types.sampling import Sampling
from chatlm_tools.calculator import calculate, calculator
from chatlm_tools.documents import documents_search

TOOLS: tuple[ToolDefinition, ...] = (calculator.definition, documents_search.definition)

_THINGS = ("apples", "tickets", "books", "bricks", "litres", "hours", "boxes", "eggs", "pages")
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo")
_TOPICS = (
    "the notice period", "the warranty of the heater", "parking", "the travel policy",
    "the budget for 2025", "the wifi password policy", "holiday pay", "the supplier from Leeds",
    "backups", "the meeting of 3 May", "the insurance number", "the cleaning rota",
    "how to reset the router", "the deposit for the flat", "the vaccination record",
    "the recipe for plum cake", "the roof repair", "the exam dates", "the tax form",
    "the train to Basel", "the project plan", "the delivery terms", "who signed the lease",
)  # fmt: skip
_DOCUMENT_PATTERNS = (
    "What do my notes say about {}?",
    "Look in my documents for {}.",
    "What does the contract say about {}?",
    "Find {} in my files.",
    "Is there anything about {} in my papers?",
    "According to our handbook, what about {}?",
    "Search my documents: {}",
    "Where did I write about {}?",
)
_PLAIN = (
    "Hello!", "Thanks!", "Good morning.", "Who are you?", "Tell me a joke.", "What is your name?",
    "Write a poem about the sea.", "Suggest a name for a cat.", "What is the capital of Italy?",
    "Why is the sky blue?", "Explain what a metaphor is.", "Write a short thank-you note.",
    "What colour is grass?", "Give me three tips for sleeping well.", "What is a noun?",
    "Translate 'good night' into French.", "Who wrote Hamlet?", "What do bees make?",
    "Name two rivers in Europe.", "How do I boil an egg?", "What is the opposite of hot?",
    "Describe autumn in one sentence.", "What language is spoken in Brazil?",
    "Write a haiku about rain.", "Is a whale a fish?", "What is friendship?",
    "How are you today?", "What should I cook tonight?", "Rewrite politely: Give me the report.",
    "What is a simile?", "Name a famous painter.", "What does a doctor do?",
    "Why do leaves fall?", "Tell me about elephants.", "What is the moon made of?",
    "Give me a synonym for big.", "Who was Cleopatra?", "What is a volcano?",
    "Correct this: She go to school.", "Which animal is the fastest on land?",
    "What can I do on a rainy day?", "What is the largest ocean?", "Say something kind.",
    "What is photosynthesis?", "How does a bicycle stay upright?", "Name a fruit that is yellow.",
)  # fmt: skip


def _number(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.5:
        return str(chance.randint(2, 999))
    if kind < 0.7:
        return str(chance.randint(1000, 99999))
    return f"{chance.randint(1, 400)}.{chance.randint(1, 99):02}"


def _sum(chance: random.Random) -> tuple[str, str]:
    """Return a question and the expression that answers it."""
    a, b, c = _number(chance), _number(chance), str(chance.randint(2, 40))
    name, thing = chance.choice(_NAMES), chance.choice(_THINGS)
    percent = chance.choice((5, 8, 12, 15, 17, 19, 20, 25, 30, 35, 40, 60, 75))
    options = (
        (f"What is {a} plus {b}?", f"{a} + {b}"),
        (f"Add {a} and {b}.", f"{a} + {b}"),
        (f"Subtract {b} from {a}.", f"{a} - {b}"),
        (f"What is {a} minus {b}?", f"{a} - {b}"),
        (f"Compute {a} * {b}", f"{a} * {b}"),
        (f"What is {a} times {c}?", f"{a} * {c}"),
        (f"Multiply {a} by {b}.", f"{a} * {b}"),
        (f"{a} x {c} = ?", f"{a} * {c}"),
        (f"Divide {a} by {c}.", f"{a} / {c}"),
        (f"What is {a} / {c}?", f"{a} / {c}"),
        (f"What is {percent}% of {a}?", f"{percent}% of {a}"),
        (f"How much is {percent} percent of {a}?", f"{percent}% of {a}"),
        (f"What is the square root of {c}?", f"sqrt({c})"),
        (f"What is ({a} + {b}) * {c}?", f"({a} + {b}) * {c}"),
        (f"Calculate {a} + {b} - {c}.", f"{a} + {b} - {c}"),
        (f"{name} buys {c} {thing} at {a} each. What does it cost?", f"{c} * {a}"),
        (f"{name} has {a} {thing} and gets {b} more. How many now?", f"{a} + {b}"),
        (f"{a} {thing} are shared by {c} people. How many does each get?", f"{a} / {c}"),
        (f"Convert {c} miles to km.", f"{c} miles to km"),
        (f"How many kg are {c} pounds?", f"{c} pounds to kg"),
        (f"What is {c} °C in °F?", f"{c} °C to °F"),
        (f"How many minutes are {c} hours?", f"{c} hours to minutes"),
    )
    return chance.choice(options)


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """Write a call as models without a form of their own do."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def _sum_exchange(chance: random.Random) -> list[tuple[str, str]]:
    question, expression = _sum(chance)
    result = calculate(expression)
    shown = result.rpartition("≈ ")[2]
    answer = chance.choice(("The answer is {}.", "It is {}.", "That is {}.")).format(shown)
    equation = f"{expression} {result if result[0] == '≈' else f'= {result}'}"
    return [
        ("user", question),
        ("assistant", call_text("calculator", {"expression": expression})),
        ("user", f"<tool_response>\n{equation}\n</tool_response>"),
        ("assistant", answer),
    ]


def _document_exchange(chance: random.Random) -> list[tuple[str, str]]:
    topic = chance.choice(_TOPICS)
    question = chance.choice(_DOCUMENT_PATTERNS).format(topic)
    return [
        ("user", question),
        ("assistant", call_text("documents_search", {"query": topic})),
        ("user", "<tool_response>\nNothing in manual is about that.\n</tool_response>"),
        ("assistant", "I found nothing about that in your documents."),
    ]


def _plain_exchanges() -> list[list[tuple[str, str]]]:
    """Ask the default model what needs no tool; long replies end after a sentence."""
    sampling = Sampling(temperature=0.0, max_tokens=60)
    requests = [Request((Message("user", text),), sampling) for text in _PLAIN]
    events: dict[int, list[Any]] = {}
    with closing(engine_of("native")) as engine:
        for index, event in stream_many(engine, requests):
            events.setdefault(index, []).append(event)
    exchanges = []
    for index, question in enumerate(_PLAIN):
        text = collect(events[index]).text.strip()
        end = max(text.rfind(mark) for mark in ".!?")
        if end > 0:
            exchanges.append([("user", question), ("assistant", text[: end + 1])])
    return exchanges


def dialogues(count: int, seed: int) -> list[dict[str, Any]]:
    """Return dialogues of several questions each."""
    from chatlm.engines.generic_tools import _description

    chance = random.Random(seed)  # noqa: S311
    system = str(_description(TOOLS))
    plain = _plain_exchanges()
    found = []
    for _ in range(count):
        kinds = chance.choices(("sum", "document", "plain"), (4, 2, 3), k=chance.randint(1, 6))
        exchanges = [
            _sum_exchange(chance)
            if kind == "sum"
            else _document_exchange(chance)
            if kind == "document"
            else chance.choice(plain)
            for kind in kinds
        ]
        messages = [{"role": "system", "content": system}]
        for exchange in exchanges:
            messages += [{"role": role, "content": text} for role, text in exchange]
        found.append({"messages": messages})
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the dialogues."""
    parser = argparse.ArgumentParser(description="Write dialogues with calls of tools.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rows = dialogues(options.count, options.seed)
    options.file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()
