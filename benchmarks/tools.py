"""Tools of a small model: whether it calls the right one, and what that is worth.

Run it with `python -m benchmarks.tools`. It asks the default model questions that need the
calculator, the user's documents or no tool, and counts which it calls; then it asks 200 generated
sums without tools and with the calculator, whose results are real. `--adapter FOLDER` measures an
adapter as well. The questions are not those of `benchmarks.tools_data`, which adapters train on.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks.tools_data import TOOLS
from benchmarks.tools_replies import ask_together, ask_with_calls, run_calculator, wilson
from chatlm.engines.devices import resolve_placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.hub import pull
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

MODEL = "smollm2-135m-instruct"

NEEDS_CALCULATOR = (
    "Work out 384 + 1,297 for me.",
    "A shirt costs 39.90 and is 15% off. How much do I save?",
    "Eleven friends split a bill of 286. What does each pay?",
    "If I drive 65 km/h for 3 hours, how far do I get?",
    "17 squared is what?",
    "I need the product of 23 and 47.",
    "How tall is 6 feet in centimetres?",
    "What remains of 1000 after taking away 387?",
    "Tom saves 45 a month. How much is that in 18 months?",
    "Please evaluate (14 + 6) * 12 / 5.",
    "What is 3/8 as a decimal?",
    "A recipe for 4 needs 350 g of flour. How much for 10 people?",
    "What's 20 percent of 145?",
    "How many seconds are in 2.5 hours?",
    "Average 12, 19 and 23, please.",
    "Sum these up: 12.5, 8.75 and 3.1",
    "A field is 120 m by 85 m. What is its area?",
    "Is 1,024 divided by 16 equal to 64?",
    "How much is 250 g in ounces?",
    "Add VAT of 19% to 250.",
)
NEEDS_DOCUMENTS = (
    "What did I note about the boiler service?",
    "Check my files: when does the insurance end?",
    "Does my lease allow pets?",
    "Summarise what my notes say on the Berlin trip.",
    "Which of my documents mentions Dr. Weber?",
    "What does our manual say about error E42?",
    "Find the paragraph about overtime in my contract.",
    "In my papers, what is the account number of the club?",
    "Look up the garden plan in my notes.",
    "What are the payment terms in the agreement I saved?",
    "Do my documents say anything on refunds?",
    "Search my notes for the name of the plumber.",
    "According to the minutes, who leads the new project?",
    "What does the handbook tell new employees to bring?",
    "Where in my files is the vaccination of the dog?",
    "Quote what my report says about sales in March.",
    "Find my notes on sourdough.",
    "What have I written about chapter three?",
    "Is the guarantee of the washing machine in my documents?",
    "What do the guidelines in my folder say about travel costs?",
)
NEEDS_NOTHING = (
    "Hi there!",
    "In which country is Oslo?",
    "Write two sentences about winter.",
    "Who painted the Mona Lisa?",
    "What does the word 'brave' mean?",
    "Give me an idea for a birthday present.",
    "How do I make tea?",
    "What is the weather like in the desert?",
    "Tell me a short story about a fox.",
    "Why do cats purr?",
    "Name three vegetables.",
    "What is a democracy?",
    "Say goodbye in Spanish.",
    "When does one call a lake a sea?",
    "Who was Mozart?",
    "Write a slogan for a bakery.",
    "Do fish sleep?",
    "What is a good hobby for children?",
    "Explain gravity to a child.",
    "What makes you happy?",
    "How old is the universe?",
    "Which instrument has black and white keys?",
    "Make this friendlier: Send me the file.",
    "What is an adjective?",
    "How are books printed?",
    "Who discovered penicillin?",
    "Why is exercise healthy?",
    "Give me a riddle.",
    "What do penguins eat?",
    "Can you help me with my homework?",
)
SELECTION = (
    *((text, "calculator") for text in NEEDS_CALCULATOR),
    *((text, "documents_search") for text in NEEDS_DOCUMENTS),
    *((text, "") for text in NEEDS_NOTHING),
)


def sums(count: int, seed: int) -> list[tuple[str, Fraction]]:
    """Return questions with their exact values."""
    chance = random.Random(seed)  # noqa: S311
    found = []
    for _ in range(count):
        a, b, c = chance.randint(12, 999), chance.randint(12, 999), chance.randint(3, 60)
        price = Fraction(chance.randint(101, 9999), 100)
        rate = chance.choice((4, 6, 11, 14, 16, 18, 22, 28, 45))
        shown = f"{float(price):.2f}"
        options = (
            (f"Work out {a} + {b}.", Fraction(a + b)),
            (f"How much is {a} less {b}?", Fraction(a - b)),
            (f"Find the product of {a} and {c}.", Fraction(a * c)),
            (f"What do {c} pens cost at {shown} each?", c * price),
            (f"Evaluate {a} - {b} + {c}.", Fraction(a - b + c)),
            (f"What do I get if I take {rate}% of {a}?", Fraction(a * rate, 100)),
            (f"Evaluate ({a} + {c}) * {c}.", Fraction((a + c) * c)),
            (f"Split {a * c} evenly among {c} teams. How much is one share?", Fraction(a)),
        )
        found.append(chance.choice(options))
    return found


def request_of(question: str, adapter: str | None, *, tools: bool) -> Request:
    """Return a greedy request."""
    sampling = Sampling(temperature=0.0, max_tokens=80)
    return Request((Message("user", question),), sampling, adapter, tools=TOOLS if tools else ())


def measure_selection(engine: LocalEngine, adapter: str | None) -> dict[str, Any]:
    """Count which tool is called first for each question."""
    requests = [request_of(text, adapter, tools=True) for text, _ in SELECTION]
    counts: Counter[tuple[str, str]] = Counter()
    for (_, wanted), output in zip(SELECTION, ask_together(engine, requests), strict=True):
        counts[wanted, output.calls[0].name if output.calls else ""] += 1
    scores: dict[str, Any] = {}
    for name in ("calculator", "documents_search"):
        right = counts[name, name]
        called = sum(n for (_, found), n in counts.items() if found == name)
        needing = sum(n for (needed, _), n in counts.items() if needed == name)
        scores[name] = {
            "called": called,
            "right": right,
            "needing": needing,
            "precision": right / called if called else None,
            "precision_interval": wilson(right, called) if called else None,
            "recall": right / needing,
            "recall_interval": wilson(right, needing),
        }
    return scores


def is_right(text: str, value: Fraction) -> bool:
    """Whether the last number of an answer is the value, rounded at most to two decimals."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    if not numbers:
        return False
    last = numbers[-1].replace(",", "")
    decimals = len(last.partition(".")[2])
    if Fraction(last) == value:
        return True
    return decimals >= 2 and abs(Fraction(last) - value) <= Fraction(1, 2 * 10**decimals)


def measure_sums(
    engine: LocalEngine, questions: Sequence[tuple[str, Fraction]], adapter: str | None, tools: bool
) -> dict[str, Any]:
    """Ask all sums; with tools, a call of the calculator is run and the model answers again."""
    began = time.monotonic()
    requests = [request_of(text, adapter, tools=tools) for text, _ in questions]
    outputs = ask_with_calls(engine, requests, run_calculator)
    pairs = zip(outputs, questions, strict=True)
    right = sum(is_right(output.text, value) for output, (_, value) in pairs)
    low, high = wilson(right, len(questions))
    return {
        "sums": len(questions),
        "right": right,
        "accuracy": right / len(questions),
        "interval": [low, high],
        "called": sum(bool(output.calls) for output in outputs),
        "tokens_per_sum": sum(output.tokens for output in outputs) / len(questions),
        "seconds": time.monotonic() - began,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0] if __doc__ else "")
    parser.add_argument("--sums", type=int, default=200)
    parser.add_argument("--seed", type=int, default=25)
    parser.add_argument("--adapter", type=Path, help="folder of an adapter to measure as well")
    parser.add_argument("--adapter-only", action="store_true", help="leave out the model alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    questions = sums(options.sums, options.seed)
    folder = pull.ensure_model(MODEL).folder
    engine = LocalEngine.from_folder(
        MODEL, folder, resolve_placement("cpu"), find_adapter=lambda name: options.adapter
    )
    results: dict[str, Any] = {}
    has_adapter = options.adapter is not None
    with closing(engine):
        for adapter in (*([] if options.adapter_only else [None]), *(["tools"] * has_adapter)):
            name = "with the adapter" if adapter else "model alone"
            for tools in (False, True):
                print(f"{name}, {'tools' if tools else 'no tools'}", file=sys.stderr, flush=True)
                row = measure_sums(engine, questions, adapter, tools)
                results[f"{name}, {'calculator' if tools else 'no tools'}"] = row
            results[f"{name}, selection"] = measure_selection(engine, adapter)
    if options.json:
        print(json.dumps(results))
        return
    for name, row in results.items():
        if "right" in row:
            low, high = row["interval"]
            print(
                f"{name}: {row['right']} of {row['sums']} right ({low:.0%} to {high:.0%}), "
                f"{row['called']} calls, {row['tokens_per_sum']:.0f} tokens a sum"
            )
        else:
            for tool, score in row.items():
                print(
                    f"{name}: {tool}: precision {_share(score, 'precision')} of {score['called']} "
                    f"calls, recall {_share(score, 'recall')} of {score['needing']}"
                )


def _share(score: dict[str, Any], name: str) -> str:
    if score[name] is None:
        return "–"
    low, high = score[f"{name}_interval"]
    return f"{score[name]:.0%} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
