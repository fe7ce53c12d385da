"""A small tree of thought: try several next steps, and continue from the best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from chatlm import (
    Delta,
    Engine,
    EngineEvent,
    Finished,
    Message,
    Request,
    StopReason,
    UsageError,
    one_line,
)
from chatlm_reasoning.answers import answer_request, read_answer
from chatlm_reasoning.chain import with_instruction
from chatlm_reasoning.consensus import SEED_STEP
from chatlm_reasoning.generation import Generation, Work

DEFAULT_BREADTH = 3
MAX_BREADTH = 8

KEPT = 2
"""Partial solutions that are followed at a time."""

MAX_STEPS = 6
"""Steps after which the answer is asked for."""

MAX_STEP_TOKENS = 120

ALTERNATIVES = 20
"""Tokens whose probabilities are compared for a score: the most that a request may ask for."""

ANSWER = "Answer:"

_IN_STEPS = (
    f"Solve this in short steps, one line each. Begin the last line with {ANSWER} and give the "
    "final answer there."
)

_JUDGE = (
    "Question:\n{question}\n\nA partial solution:\n{steps}\n\nIs it correct so far, and does it "
    "lead to the answer? Reply with yes or no."
)


@dataclass(frozen=True)
class Path:
    """A partial solution."""

    steps: tuple[str, ...] = ()
    score: float = 0.5
    """How likely the model finds it right, from 0 to 1."""

    @property
    def text(self) -> str:
        """The steps, one a line."""
        return "\n".join(self.steps)

    @property
    def answered(self) -> bool:
        """Whether the last step gives the answer."""
        return bool(self.steps) and ANSWER.casefold() in self.steps[-1].casefold()


def stream_tree(
    engine: Engine, request: Request, argument: str
) -> Generator[EngineEvent, None, None]:
    """Search for steps to the answer, scored by the model itself, and reply with the best path.

    The thoughts of the reply hold all steps with their scores, and the cost.

    Raises:
        UsageError: the argument is no valid number, or the answer must have a certain form.
        ContinuationUnsupported: the model's server cannot continue a text.
    """
    breadth = breadth_of(argument)
    if request.sampling.schema or request.sampling.grammar:
        raise UsageError(
            "tree writes its steps into the answer, which a schema or grammar does not allow",
            hint="Use consensus, or no schema.",
        )
    work = Work(engine)
    question = request.messages[-1].text
    asked = with_instruction(request, _IN_STEPS)
    paths = [Path()]
    for depth in range(1, MAX_STEPS + 1):
        proposed = yield from _propose(work, asked, paths, breadth, depth)
        if not proposed:
            break
        judged = yield from _judge(work, request, question, proposed)
        done = [path for path in paths if path.answered]
        paths = sorted([*done, *judged], key=lambda path: -path.score)[:KEPT]
        yield work.tell(_describe_level(depth, judged, paths))
        if all(path.answered for path in paths):
            break
    best = max(paths, key=lambda path: (path.answered, path.score))
    lines = list(best.steps)
    if not best.answered:
        (ending,) = yield from work.generate([answer_request(asked, best.text, engine.info)])
        lines.append(f"{ANSWER} {read_answer(ending.text) or 'none found'}")
    yield work.tell(f"Best path: {best.score:.2f}\n{work.cost()}")
    usage = work.usage()
    yield Delta("\n".join(lines), usage=usage)
    yield Finished(StopReason.END, usage)


def breadth_of(argument: str) -> int:
    """Return the number of next steps that an argument asks for.

    Raises:
        UsageError: it is no number from 2 to `MAX_BREADTH`.
    """
    if not argument:
        return DEFAULT_BREADTH
    if not argument.isascii() or not argument.isdigit() or not 2 <= int(argument) <= MAX_BREADTH:
        raise UsageError(
            f"tree tries 2 to {MAX_BREADTH} steps at a time, not {one_line(argument, 20)}",
            hint=f"Write, for example: tree:{DEFAULT_BREADTH}",
        )
    return int(argument)


def _continued(request: Request, path: Path) -> Request:
    """Return the request with the path as the beginning of the reply."""
    if not path.steps:
        return request
    begun = Message("assistant", path.text + "\n")
    return dataclasses.replace(request, messages=(*request.messages, begun))


def _propose(
    work: Work, request: Request, paths: Sequence[Path], breadth: int, depth: int
) -> Generator[EngineEvent, None, list[Path]]:
    """Sample next steps of the paths that have no answer yet; equal ones count once."""
    open_paths = [path for path in paths if not path.answered for _ in range(breadth)]
    requests = []
    for number, path in enumerate(open_paths):
        sampling = request.sampling
        seed = sampling.seed
        if seed is not None:
            seed = (seed + (depth * KEPT * MAX_BREADTH + number) * SEED_STEP) % 2**63
        limit = min(sampling.max_tokens or MAX_STEP_TOKENS, MAX_STEP_TOKENS)
        one_line_only = dataclasses.replace(sampling, seed=seed, stop=("\n",), max_tokens=limit)
        requests.append(dataclasses.replace(_continued(request, path), sampling=one_line_only))
    replies = yield from work.generate(requests)
    found: dict[tuple[str, ...], Path] = {}
    for path, reply in zip(open_paths, replies, strict=True):
        if step := reply.text.strip():
            steps = (*path.steps, step)
            found.setdefault(steps, Path(steps))
    return list(found.values())


def _judge(
    work: Work, request: Request, question: str, paths: Sequence[Path]
) -> Generator[EngineEvent, None, list[Path]]:
    """Score paths by the probability of yes against no."""
    sampling = dataclasses.replace(
        request.sampling,
        temperature=0.0,
        max_tokens=4,
        stop=(),
        grammar="regex:(yes|no)",
        thinking="off" if "off" in work.engine.info.thinking_levels else None,
    )
    system = tuple(message for message in request.messages if message.role == "system")
    requests = [
        dataclasses.replace(
            request,
            messages=(
                *system,
                Message("user", _JUDGE.format(question=question, steps=path.text)),
            ),
            sampling=sampling,
            logprobs=ALTERNATIVES,
        )
        for path in paths
    ]
    replies = yield from work.generate(requests)
    return [
        dataclasses.replace(path, score=yes_probability(reply))
        for path, reply in zip(paths, replies, strict=True)
    ]


def yes_probability(reply: Generation) -> float:
    """Return the probability of yes against no for the reply's first token; 0.5 if unknown."""
    if not reply.logprobs:
        return 0.5
    first = reply.logprobs[0]
    seen = {first.bytes: first.logprob} | {each.bytes: each.logprob for each in first.top_logprobs}
    chances = {"y": 0.0, "n": 0.0}
    for raw, logprob in seen.items():
        word = raw.decode("utf-8", "replace").strip().casefold()
        if word and (("yes").startswith(word) or ("no").startswith(word)):
            chances[word[0]] += math.exp(logprob)
    total = sum(chances.values())
    return chances["y"] / total if total else 0.5


def _describe_level(depth: int, judged: Sequence[Path], kept: Sequence[Path]) -> str:
    rows = [
        f"{'→' if path in kept else ' '} {path.score:.2f}  {path.steps[-1]}"
        for path in sorted(judged, key=lambda path: -path.score)
    ]
    return f"Step {depth}\n" + "\n".join(rows) + "\n\n"
