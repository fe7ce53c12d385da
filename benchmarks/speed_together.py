"""Speed-up by speculative decoding and by batching.

Run it with `python -m benchmarks.speed_together`. Both variants take turns in each round with the
same engine. `--llamacpp PYTHON`, with a Python that has llama-cpp-python, adds its batched bench on
the same file, which samples nothing. The benchmark has no pass or fail.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.single_tokens import no_guesses
from benchmarks.speed_sides import CPU
from chatlm.engines.batching import stream_many
from chatlm.engines.local_engine import LocalEngine
from chatlm.hub import pull
from chatlm.types.events import Finished
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

MODEL = "smollm2-135m-instruct"
PASSAGE = (
    "The lighthouse of Farol stands on a rock of basalt, 31 metres above the sea. Its lamp was lit "
    "for the first time in 1858; since 1987 no keeper has lived there. Visitors come by boat, on "
    "Tuesdays and Saturdays, when the wind is below force 5. The stairs have 163 steps."
)
CODE = Path(__file__).parents[1].joinpath("chatlm", "engines", "stopping.py")
STORY = "Write a very long story about a lighthouse, with many turns."
COUNTS = (2, 4, 8, 16)
TARGETS = (3.5, 1.5)
"""For 16 replies: ratio to one by one, and to the batched bench of llama.cpp."""


def tasks(tokens: int) -> dict[str, Request]:
    """Return requests whose replies copy much, little and almost nothing."""

    def request(text: str, temperature: float) -> Request:
        sampling = Sampling(
            temperature=temperature, frequency_penalty=0.0, max_tokens=tokens, seed=1
        )
        return Request((Message("user", text),), sampling)

    code = "\n".join(CODE.read_text(encoding="utf-8").splitlines()[:30])
    return {
        "a passage word by word": request(f"{PASSAGE}\n\nRepeat this text word by word.", 0.0),
        "an edit of code": request(
            f"{code}\n\nRename `text` to `string`. Give the whole code.", 0.0
        ),
        "a story, greedy": request(STORY, 0.0),
        "a story, temperature 1": request(STORY, 1.0),
    }


def copying(engine: LocalEngine, request: Request) -> float:
    """Return the tokens per second after the first."""
    usage = None
    for event in engine.stream(request):
        if isinstance(event, Finished):
            usage = event.usage
    assert usage is not None
    return usage.tokens_per_second or 0.0


def plain(engine: LocalEngine, request: Request) -> float:
    """Do the same as `copying` without speculative decoding."""
    with no_guesses():
        return copying(engine, request)


def many(engine: LocalEngine, requests: list[Request], *, together: bool) -> float:
    """Return the total tokens per second, including prefill."""
    start, made = time.perf_counter(), 0
    if together:
        engine._prompt_cache.clear()
        for _, event in stream_many(engine, requests):
            made += event.usage.completion_tokens if isinstance(event, Finished) else 0
    else:
        for request in requests:
            engine._prompt_cache.clear()
            for event in engine.stream(request):
                made += event.usage.completion_tokens if isinstance(event, Finished) else 0
    return made / (time.perf_counter() - start)


def llamacpp_batched(
    python: str, folder: Path, prompt_tokens: int, tokens: int
) -> dict[int, tuple[float, float]]:
    """Run llama.cpp's batched bench; return tokens/s with the prompts and without, by count."""
    script = Path(__file__).with_name("llamacpp_batched.py")
    numbers = [torch.get_num_threads(), prompt_tokens, tokens, *COUNTS]
    made = subprocess.run(
        [python, str(script), str(next(folder.glob("*.gguf"))), *map(str, numbers)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {int(count): tuple(speeds) for count, speeds in json.loads(made.stdout).items()}


def main() -> None:
    """Measure, then print tables, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each reply")
    parser.add_argument("--weights", default="auto", help="value of the setting `weights`")
    parser.add_argument("--llamacpp", metavar="PYTHON", help="also measure its batched bench")
    parser.add_argument("--only-batches", action="store_true", help="no speculative decoding")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = pull.ensure_model(MODEL).folder
    engine = LocalEngine.from_folder(MODEL, folder, CPU, weights=options.weights)
    copies = {} if options.only_batches else tasks(options.tokens)
    crowds = {
        count: [
            Request(
                (Message("user", f"Tell the story of lighthouse number {number}."),),
                Sampling(temperature=0.9, seed=number, max_tokens=options.tokens),
            )
            for number in range(count)
        ]
        for count in COUNTS
    }
    sides: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        **{
            name: (partial(copying, engine, request), partial(plain, engine, request))
            for name, request in copies.items()
        },
        **{
            f"{count} replies together": (
                partial(many, engine, requests, together=True),
                partial(many, engine, requests, together=False),
            )
            for count, requests in crowds.items()
        },
    }
    speeds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in sides}
    prompt_tokens = engine.count_tokens(crowds[COUNTS[0]][0].messages)
    peer: dict[int, list[tuple[float, float]]] = {count: [] for count in COUNTS}
    for round_ in range(options.rounds):
        for name, pair in sides.items():
            for side in (0, 1) if round_ % 2 else (1, 0):  # the second one is often faster
                speeds[name][side].append(pair[side]())
        if options.llamacpp:
            made = llamacpp_batched(options.llamacpp, folder, prompt_tokens, options.tokens)
            for count, both in made.items():
                peer[count].append(both)
        print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr)
    rows = {
        name: {"tokens_per_second": statistics.median(ours), "without": statistics.median(others)}
        for name, (ours, others) in speeds.items()
    }
    for row in rows.values():
        row["ratio"] = row["tokens_per_second"] / row["without"]
    for count, measured in peer.items():
        if measured:
            row = rows[f"{count} replies together"]
            row["llamacpp"] = statistics.median(whole for whole, _ in measured)
            row["llamacpp_decode"] = statistics.median(decode for _, decode in measured)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{MODEL}, {engine.info.weights}, {torch.get_num_threads()} threads")
    titles = ("tokens/s", "one by one", "ratio", "llama.cpp", "decode only")
    print(f"{'':<28}{titles[0]:>10}{titles[1]:>12}{titles[2]:>8}{titles[3]:>11}{titles[4]:>13}")
    for name, row in rows.items():
        others = (
            f"{row[key]:.1f}" if key in row else "" for key in ("llamacpp", "llamacpp_decode")
        )
        print(
            f"{name:<28}{row['tokens_per_second']:>10.1f}{row['without']:>12.1f}"
            f"{row['ratio']:>8.2f}" + "{:>11}{:>13}".format(*others)
        )
    last = rows[f"{COUNTS[-1]} replies together"]
    print(f"target: ratio {TARGETS[0]}: {'met' if last['ratio'] >= TARGETS[0] else 'missed'}")
    if "llamacpp_decode" in last:
        factor = last["tokens_per_second"] / last["llamacpp_decode"]
        outcome = "met" if factor >= TARGETS[1] else "missed"
        print(f"target: {TARGETS[1]} times llama.cpp's decoding: {factor:.2f}, {outcome}")


if __name__ == "__main__":
    main()
