"""Self-consistency: sample several replies, and take the answer that most of them give."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from chatlm import Delta, Engine, EngineEvent, Finished, Request, UsageError, one_line
from chatlm_reasoning.answers import answer_request, read_answer, vote_key
from chatlm_reasoning.chain import STEP_BY_STEP, with_instruction
from chatlm_reasoning.generation import Generation, Work

DEFAULT_SAMPLES = 9
MAX_SAMPLES = 64

SAMPLE_TEMPERATURE = 0.7
"""Temperature where the settings say 0, as in the paper on self-consistency (Wang et al., 2022)."""

SEED_STEP = 1_000_003
"""Between the seeds of two samples, so that chats with neighbouring seeds do not share samples."""


@dataclass(frozen=True)
class Vote:
    """What the samples answered."""

    counts: tuple[tuple[str, int], ...]
    """Answers, each with its number of samples, most first; of equal numbers, the first sampled."""
    without_answer: int
    """Samples that were cut or gave none."""
    winner: int | None
    """Index of the first sample with the winning answer; None without any answer."""

    def __str__(self) -> str:
        shown = [f"{one_line(answer, 60)} × {count}" for answer, count in self.counts]
        if self.without_answer:
            shown.append(f"no answer × {self.without_answer}")
        return " · ".join(shown)


def count_votes(answers: Sequence[str]) -> Vote:
    """Count equal answers; an empty one counts for nothing.

    Args:
        answers: of the samples, in order.
    """
    keys = [vote_key(answer) if answer else "" for answer in answers]
    times = Counter(key for key in keys if key)
    first = {key: keys.index(key) for key in times}
    ranked = sorted(times, key=lambda key: (-times[key], first[key]))
    return Vote(
        tuple((answers[first[key]], times[key]) for key in ranked),
        keys.count(""),
        first[ranked[0]] if ranked else None,
    )


def stream_consensus(
    engine: Engine, request: Request, argument: str
) -> Generator[EngineEvent, None, None]:
    """Generate samples in one batch, ask each for its answer, and reply with the winner.

    The thoughts of the reply hold all samples, the votes and the cost.

    Raises:
        UsageError: the argument is no valid number of samples, or the temperature is 0.
    """
    count = sample_count(argument)
    request, note = _varied(engine, request)
    work = Work(engine)
    asked = request if engine.info.thinks else with_instruction(request, STEP_BY_STEP)
    samples = yield from work.generate([_with_seed(asked, index) for index in range(count)])
    answers = yield from _answers(work, asked, samples)
    if note:
        yield work.tell(note)
    for number, (sample, answer) in enumerate(zip(samples, answers, strict=True), start=1):
        label = one_line(answer, 60) if answer else "no answer" + ("" if sample.ended else ", cut")
        yield work.tell(f"Sample {number}: {label}\n{sample.text.strip()}\n\n")
    vote = count_votes(answers)
    yield work.tell(f"Votes: {vote}\n{count} samples: {work.cost()}")
    best = samples[vote.winner or 0]
    usage = work.usage(best.usage.completion_tokens)
    yield Delta(best.text + _verdict(request, vote, count), usage=usage)
    yield Finished(best.stop_reason, usage)


def sample_count(argument: str) -> int:
    """Return the number of samples that an argument asks for.

    Raises:
        UsageError: it is no number from 2 to `MAX_SAMPLES`.
    """
    if not argument:
        return DEFAULT_SAMPLES
    if not argument.isascii() or not argument.isdigit() or not 2 <= int(argument) <= MAX_SAMPLES:
        raise UsageError(
            f"consensus takes 2 to {MAX_SAMPLES} samples, not {one_line(argument, 20)}",
            hint=f"Write, for example: consensus:{DEFAULT_SAMPLES}",
        )
    return int(argument)


def _varied(engine: Engine, request: Request) -> tuple[Request, str]:
    """Return the request with a temperature at which samples differ, and a note if it is raised."""
    sampling = request.sampling.with_fallback(engine.info.default_sampling)
    if sampling.top_k == 1:
        raise UsageError(
            "consensus needs samples that differ, but top_k is 1, so that all would be the same",
            hint="Set top_k to 0.",
        )
    if sampling.temperature != 0:
        return request, ""
    varied = dataclasses.replace(request.sampling, temperature=SAMPLE_TEMPERATURE)
    note = (
        f"Sampled at temperature {SAMPLE_TEMPERATURE:g} instead of 0, so that samples differ.\n\n"
    )
    return dataclasses.replace(request, sampling=varied), note


def _with_seed(request: Request, index: int) -> Request:
    seed = request.sampling.seed
    if seed is None:
        return request
    own = (seed + index * SEED_STEP) % 2**63
    return dataclasses.replace(request, sampling=dataclasses.replace(request.sampling, seed=own))


def _answers(
    work: Work, request: Request, samples: Sequence[Generation]
) -> Generator[EngineEvent, None, list[str]]:
    """Ask for the answers of the samples that ended; those bound to a form are answers already."""
    if request.sampling.schema or request.sampling.grammar:
        return [_canonical(sample.text) if sample.ended else "" for sample in samples]
    ended = [index for index, sample in enumerate(samples) if sample.ended and sample.text.strip()]
    questions = [answer_request(request, samples[index].text, work.engine.info) for index in ended]
    replies = yield from work.generate(questions)
    answers = [""] * len(samples)
    for index, reply in zip(ended, replies, strict=True):
        answers[index] = read_answer(reply.text)
    return answers


def _canonical(text: str) -> str:
    """Return JSON without its spacing, and any other text as it is."""
    with suppress(ValueError):
        return json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False)
    return text.strip()


def _verdict(request: Request, vote: Vote, count: int) -> str:
    if request.sampling.schema or request.sampling.grammar:
        return ""
    if vote.winner is None:
        return "\n\n(No sample came to an answer; this is the first one.)"
    answer, times = vote.counts[0]
    tied = sum(each == times for _, each in vote.counts) > 1
    note = ", as many as for another answer" if tied else ""
    return f"\n\n**Answer: {one_line(answer, 100)}** ({times} of {count} samples{note})"
