"""What methods of more computation gain on word problems, and what they cost.

Run it with `python -m benchmarks.methods [--adapter NAME]`: each problem is answered in one go,
with chain of thought and by a vote of samples, by the same model. Accuracy has Wilson's interval;
methods are compared with the plain reply on the same problems by McNemar's exact test.

The default model solves next to none of them. `--write-training FILE` writes examples for an
adapter, half of them with steps and half without, whose names and things differ from the problems':

    python -m benchmarks.methods --write-training problems.jsonl
    chatlm adapters train problems --data problems.jsonl
    python -m benchmarks.methods --adapter problems
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.word_problems import Problem, problems
from chatlm import Delta, Finished, Sampling, Setup, SideChat, load_config, side_chats
from chatlm.plugin_kit.progress import progress_bar, status_lines
from chatlm_reasoning.answers import vote_key
from chatlm_reasoning.chain import STEP_BY_STEP

PLAIN = "off"
METHODS = (PLAIN, "chain", "consensus:9")

_STATED = re.compile(r"Answer:\s*(.+?)(?:\*\*|$)", re.MULTILINE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclasses.dataclass
class Score:
    """How one method did on all problems."""

    method: str
    right: list[bool] = dataclasses.field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def to_dict(self, plain: Score) -> dict[str, Any]:
        """Convert to JSON values, with the comparison with the plain replies."""
        low, high = wilson(sum(self.right), len(self.right))
        gained = sum(b > a for a, b in zip(plain.right, self.right, strict=True))
        lost = sum(b < a for a, b in zip(plain.right, self.right, strict=True))
        return {
            "method": self.method,
            "problems": len(self.right),
            "right": sum(self.right),
            "accuracy": sum(self.right) / len(self.right),
            "interval": [low, high],
            "gained": gained,
            "lost": lost,
            "p": mcnemar(gained, lost),
            "tokens_per_problem": self.tokens / len(self.right),
            "seconds_per_problem": self.seconds / len(self.right),
        }


def wilson(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    share, square = successes / count, z * z / count
    middle = share + square / 2
    spread = z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return (middle - spread) / (1 + square), (middle + spread) / (1 + square)


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided probability of such a difference without a true one."""
    total = gained + lost
    tail = sum(math.comb(total, k) for k in range(min(gained, lost) + 1)) / 2**total
    return min(1.0, float(2 * tail))


def stated_answer(text: str) -> str:
    """Return the number that a reply states last as its answer, else its last number."""
    stated = _STATED.findall(text)
    numbers = _NUMBER.findall(stated[-1] if stated else text)
    return vote_key(numbers[-1]) if numbers else ""


def ask(chat: SideChat, problem: Problem, score: Score) -> None:
    """Answer one problem in a new chat."""
    request = chat.request(problem.question)
    text, started = "", time.perf_counter()
    with closing(chat.stream(request)) as events:
        for event in events:
            if isinstance(event, Delta):
                text += event.answer
            elif isinstance(event, Finished):
                score.tokens += event.usage.completion_tokens
    score.seconds += time.perf_counter() - started
    score.right.append(stated_answer(text) == str(problem.answer))


def write_training(path: Path, count: int) -> None:
    """Write examples, in turn without steps, and with the instruction to write them."""
    found = itertools.islice(problems("train", 0), count)
    with path.open("w", encoding="utf-8") as file:
        for number, problem in enumerate(found):
            question, answer = problem.question, f"Answer: {problem.answer}"
            if number % 2:
                question = f"{question}\n\n{STEP_BY_STEP}"
                answer = "\n".join((*problem.steps, answer))
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Answer all problems by each method; return the rows of the table."""
    tasks = list(itertools.islice(problems("test", 1), args.problems))
    scores = [Score(method) for method in args.methods]
    with side_chats(load_config(), status_lines()) as chats, progress_bar() as progress:
        total = len(tasks) * len(scores)
        for number, problem in enumerate(tasks):
            for score in scores:  # interleaved, so that load of the machine meets all alike
                sampling = Sampling(method=score.method, seed=number, max_tokens=args.max_tokens)
                setup = Setup(model=args.model, adapter=args.adapter, sampling=sampling)
                ask(chats.begin(setup), problem, score)
                done = sum(len(each.right) for each in scores)
                progress.update(done, total, score.method)
    plain = next(score for score in scores if score.method == PLAIN)
    return [score.to_dict(plain) for score in scores]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="model; the configured one if left out")
    parser.add_argument("--adapter", default="", help="LoRA adapter")
    parser.add_argument("--methods", default=",".join(METHODS), help="with off among them")
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--max-tokens", type=int, default=160, help="of each generation")
    parser.add_argument(
        "--write-training", type=Path, metavar="FILE", help="write examples, and end"
    )
    parser.add_argument("--examples", type=int, default=3000, help="number of those")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    args.methods = args.methods.split(",")
    if args.write_training:
        write_training(args.write_training, args.examples)
        return
    if PLAIN not in args.methods or args.problems < 1:
        parser.error("--methods must have off, and --problems must be 1 or more")
    rows = measure(args)
    if args.json:
        json.dump({"adapter": args.adapter, "methods": rows}, sys.stdout)
        print()
        return
    print("| method | right | accuracy | 95 % interval | gained, lost | p | tokens | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = row["interval"]
        print(
            f"| {row['method']} | {row['right']} of {row['problems']} | {row['accuracy']:.1%} | "
            f"{low:.1%} to {high:.1%} | +{row['gained']}, −{row['lost']} | {row['p']:.2g} | "
            f"{row['tokens_per_problem']:.0f} | {row['seconds_per_problem']:.2f} |"
        )


if __name__ == "__main__":
    main()
