"""What methods of more computation gain on word problems, and what they cost.

Run it with `python -m benchmarks.methods [--adapter NAME]`: each problem is answered in one go,
with chain of thought, by a vote of samples, with the calculator and by a Python program, by the
same model. Accuracy has Wilson's interval; methods are compared with the plain reply on the same
problems by McNemar's exact test. Replies are generated in batches, the samples of one vote in a
batch of their own. `--state FILE` keeps each answer, so that a run that was stopped goes on.

The default model solves next to none of them. `--write-training FILE` writes examples for an
adapter, in turn without steps, with steps and with a program; wordings, names, things and numbers
differ from those of the problems that are measured:

    python -m benchmarks.methods --write-training problems.jsonl
    chatlm adapters train problems --data problems.jsonl --epochs 1 --learning-rate 0.001
    python -m benchmarks.methods --adapter problems --max-tokens 80
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.tools_data import call_text
from benchmarks.tools_replies import ask_with_calls, run_calculator, wilson
from benchmarks.word_problems import KINDS, Problem, problems
from chatlm import (
    Delta,
    Finished,
    Request,
    Sampling,
    Setup,
    SideChats,
    UsageError,
    load_config,
    side_chats,
)
from chatlm.engines.generic_tools import describe_tools
from chatlm.plugin_kit.progress import progress_bar, status_lines
from chatlm.types.parts import ToolCall
from chatlm.types.tools import parse_arguments
from chatlm_reasoning.answers import vote_key
from chatlm_reasoning.chain import STEP_BY_STEP, with_instruction
from chatlm_tools.calculator import calculator
from chatlm_tools.programs import python, run_python
from chatlm_tools.settings import Settings

PLAIN, CHAIN = "off", "chain"
CALCULATOR, PROGRAM = "calculator", "program"
METHODS = (PLAIN, CHAIN, "consensus:9", CALCULATOR, PROGRAM)

_TOOLS = {CALCULATOR: calculator.definition, PROGRAM: python.definition}
"""The tool that is offered; programs are asked for by the template of that name."""

BATCH = 16
"""Problems that are answered together."""

_STATED = re.compile(r"Answer:\s*(.+?)(?:\*\*|$)", re.MULTILINE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a method made of one problem."""

    problem: int
    """Index of the problem."""
    method: str
    right: bool
    tokens: int
    """Generated tokens."""
    seconds: float
    """Share of the time of its batch."""


@dataclasses.dataclass(frozen=True)
class Score:
    """How one method did on all problems."""

    method: str
    answers: Sequence[Answer]
    """In the order of the problems."""

    def to_dict(self, plain: Score) -> dict[str, Any]:
        """Convert to JSON values, with the comparison with the plain replies."""
        count = len(self.answers)
        right = sum(answer.right for answer in self.answers)
        pairs = list(zip(plain.answers, self.answers, strict=True))
        gained = sum(after.right > before.right for before, after in pairs)
        lost = sum(after.right < before.right for before, after in pairs)
        return {
            "method": self.method,
            "problems": count,
            "right": right,
            "accuracy": right / count,
            "interval": list(wilson(right, count)),
            "gained": gained,
            "lost": lost,
            "p": mcnemar(gained, lost),
            "tokens_per_problem": sum(answer.tokens for answer in self.answers) / count,
            "seconds_per_problem": sum(answer.seconds for answer in self.answers) / count,
        }


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


class Measurement:
    """Answers problems by methods, and remembers the answers.

    Args:
        chats: of the user's plugins and models.
        tasks: the problems, by their index.
        args: of the command line.
    """

    def __init__(
        self, chats: SideChats, tasks: Mapping[int, Problem], args: argparse.Namespace
    ) -> None:
        self._chats = chats
        self._tasks = tasks
        self._args = args
        self._engine = chats.begin(Setup(args.model, args.adapter)).engine
        self._state: Path | None = args.state
        self.answers: dict[tuple[int, str], Answer] = {}
        if self._state is not None and self._state.exists():
            for line in self._state.read_text("utf-8").splitlines():
                row = json.loads(line)
                answer = Answer(**row["answer"])
                if answer.problem in tasks and row == self._row(answer):
                    self._remember(answer)

    def answer(self, method: str, numbers: Sequence[int]) -> None:
        """Answer those problems of a batch that the method has not answered yet."""
        todo = [number for number in numbers if (number, method) not in self.answers]
        if not todo:
            return
        started = time.perf_counter()
        requests = [self._request(method, number) for number in todo]
        if self._is_batched(method):
            outputs = ask_with_calls(self._engine, requests, _run)
            replies = [(each.text, each.tokens) for each in outputs]
        else:
            replies = [self._stream(request) for request in requests]
        seconds = (time.perf_counter() - started) / len(todo)
        for number, (text, tokens) in zip(todo, replies, strict=True):
            right = stated_answer(text) == str(self._tasks[number].answer)
            self._save(Answer(number, method, right, tokens, seconds))

    @staticmethod
    def _is_batched(method: str) -> bool:
        """Whether several problems are answered at once, each greedily."""
        return method in (PLAIN, CHAIN, *_TOOLS)

    def _request(self, method: str, number: int) -> Request:
        batched = self._is_batched(method)
        sampling = Sampling(
            method=PLAIN if batched else method,
            seed=number,
            max_tokens=self._args.max_tokens,
            temperature=0.0 if batched else None,
        )
        args = self._args
        template = PROGRAM if method == PROGRAM else ""
        setup = Setup(args.model, args.adapter, template=template, sampling=sampling)
        request = self._chats.begin(setup).request(self._tasks[number].question)
        if method in _TOOLS:
            return dataclasses.replace(request, tools=(_TOOLS[method],))
        return with_instruction(request, STEP_BY_STEP) if method == CHAIN else request

    def _stream(self, request: Request) -> tuple[str, int]:
        text, tokens = "", 0
        chat = self._chats.begin(Setup(self._args.model, self._args.adapter))
        with closing(chat.stream(request)) as events:
            for event in events:
                if isinstance(event, Delta):
                    text += event.answer
                elif isinstance(event, Finished):
                    tokens = event.usage.completion_tokens
        return text, tokens

    def _save(self, answer: Answer) -> None:
        self._remember(answer)
        if self._state is not None:
            with self._state.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._row(answer)) + "\n")

    def _row(self, answer: Answer) -> dict[str, Any]:
        """Return an answer with all that it depends on, but for the weights."""
        args = self._args
        return {
            "model": args.model,
            "adapter": args.adapter,
            "max_tokens": args.max_tokens,
            "question": self._tasks[answer.problem].question,
            "answer": vars(answer),
        }

    def _remember(self, answer: Answer) -> None:
        self.answers[answer.problem, answer.method] = answer


def _run(call: ToolCall) -> str:
    """Run a call without asking, as a chat would; programs run in the same sandbox."""
    if call.name == calculator.name:
        return run_calculator(call)
    try:
        code = str(parse_arguments(call.arguments).get("code", ""))
    except UsageError as error:
        return error.message
    return run_python(code, Settings(), lambda: False).text


def training_rows(count: int, system: str, skip: int = 0) -> list[dict[str, Any]]:
    """Return dialogues about problems: without steps, with them, and with a program.

    Args:
        count: number of problems.
        system: prompt of the template `program`.
        skip: problems before the first one, which an earlier training has seen.
    """
    rows: list[list[tuple[str, str]]] = []
    programs: list[tuple[str, str]] = []
    several = False
    with_tools = f"{system}\n\n{describe_tools((python.definition,))}"
    for number, problem in enumerate(itertools.islice(problems("train", 0), skip, skip + count)):
        question, answer = problem.question, f"Answer: {problem.answer}"
        way = (number + number // len(KINDS)) % 3  # each way for all kinds of problems
        if way == 0:
            rows.append([("user", question), ("assistant", answer)])
        elif way == 1:
            steps = "\n".join((*problem.steps, answer))
            rows.append([("user", f"{question}\n\n{STEP_BY_STEP}"), ("assistant", steps)])
        else:
            call = call_text("python", {"code": f"print({problem.expression})"})
            result = f"<tool_response>\n{problem.answer}\n</tool_response>"
            programs += [("user", question), ("assistant", call)]
            programs += [("user", result), ("assistant", answer)]
            # The description of the tool is long, so every second dialogue has four problems.
            if len(programs) == 4 * (4 if several else 1):
                rows.append([("system", with_tools), *programs])
                programs, several = [], not several
    return [{"messages": [{"role": role, "content": text} for role, text in row]} for row in rows]


def write_training(path: Path, count: int, skip: int) -> None:
    """Write examples for an adapter; see `training_rows`."""
    with side_chats(load_config(), status_lines()) as chats:
        system = chats.render_template(PROGRAM, {}, "?").system
    rows = training_rows(count, system, skip)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Answer all problems by each method; return the rows of the table."""
    tasks = dict(enumerate(itertools.islice(problems("test", 1), args.problems)))
    with side_chats(load_config(), status_lines()) as chats, progress_bar() as progress:
        work = Measurement(chats, tasks, args)
        total = len(tasks) * len(args.methods)
        done = 0
        for start in range(0, len(tasks), BATCH):
            batch = range(start, min(start + BATCH, len(tasks)))
            for method in args.methods:  # in turn, so that load of the machine meets all alike
                work.answer(method, batch)
                done += len(batch)
                progress.update(done, total, method)
    scores = [
        Score(method, [work.answers[number, method] for number in tasks]) for method in args.methods
    ]
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
    parser.add_argument("--state", type=Path, metavar="FILE", help="answers so far, to go on")
    parser.add_argument(
        "--write-training", type=Path, metavar="FILE", help="write examples, and end"
    )
    parser.add_argument("--examples", type=int, default=900, help="problems in those")
    parser.add_argument("--skip", type=int, default=0, help="problems before those")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    args.methods = args.methods.split(",")
    if args.write_training:
        write_training(args.write_training, args.examples, args.skip)
        return
    if PLAIN not in args.methods or args.problems < 1:
        parser.error("--methods must have off, and --problems must be 1 or more")
    rows = measure(args)
    if args.json:
        print(json.dumps({"model": args.model, "adapter": args.adapter, "methods": rows}))
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
