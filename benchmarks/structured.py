"""Answers that have to fit a schema: how many do, and what the constraint costs.

Run it with `python -m benchmarks.structured`. It asks the default model for JSON by each of 20
schemas, with the constraint and without (there the schema is part of the question), without an
adapter and with the one called `instruct`, and times decoding with a grammar that allows
everything, alone and 16 at a time. `--collection FOLDER` also compiles all `.json` schemas below a
folder and asks once by each that is supported, or by `--sample` of them; with `--state FILE` it
goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import chatlm_lora
from benchmarks.structured_collection import measure_collection
from benchmarks.structured_replies import collect, judge
from benchmarks.structured_schemas import SCHEMAS
from chatlm.engines.batching import stream_many
from chatlm.engines.devices import resolve_placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.hub import pull
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

MODEL = "smollm2-135m-instruct"
ADAPTERS = Path(chatlm_lora.__file__).parent / "adapters"
ADAPTER = "instruct"
"""Shipped with chatlm."""

FREE_LIMIT = 512
"""Tokens of a reply without the constraint, where the model may repeat itself without end."""

FREE = r"regex:(.|\n)*"
STORY = Message("user", "Write a long story about a lighthouse and its keeper.")
PATHS = ("native", "torch", "transformers")


def requests(
    seeds: int, limit: int, constrained: bool, adapter: str | None
) -> Iterator[tuple[Any, Request]]:
    """Yield each schema with its requests."""
    for question, schema in SCHEMAS:
        for seed in range(seeds):
            text = question
            if not constrained:
                text += f"\nAnswer in JSON only, by this schema: {json.dumps(schema)}"
            yield (
                schema,
                Request(
                    (Message("user", text),),
                    Sampling(
                        temperature=0.8,
                        seed=seed,
                        max_tokens=limit if constrained else min(limit, FREE_LIMIT),
                        schema=json.dumps(schema) if constrained else None,
                    ),
                    adapter,
                ),
            )


def measure_validity(
    engine: LocalEngine, seeds: int, limit: int, constrained: bool, adapter: str | None
) -> Any:
    """Ask by each schema; count what fits, what was cut and what does not fit."""
    pairs = list(requests(seeds, limit, constrained, adapter))
    events: dict[int, list[Any]] = {}
    for index, event in stream_many(engine, [request for _, request in pairs]):
        events.setdefault(index, []).append(event)
    counts: Counter[str] = Counter()
    for index, (schema, _) in enumerate(pairs):
        counts[judge(schema, collect(events[index]))] += 1
    ended = counts["fits"] + counts["does not fit"]
    return {
        "replies": len(pairs),
        "fits": counts["fits"],
        "cut": counts["cut"],
        "valid_of_ended": counts["fits"] / ended if ended else None,
    }


def measure_overhead(engine: LocalEngine, tokens: int, together: int, rounds: int) -> Any:
    """Time decoding with a grammar that allows everything, and without one, in turns."""
    seconds: dict[str, list[float]] = {"free": [], "constrained": []}
    for _ in range(rounds):
        for name, grammar in (("free", None), ("constrained", FREE)):
            asked = [
                Request(
                    (STORY,),
                    Sampling(temperature=1.0, seed=seed, max_tokens=tokens, grammar=grammar),
                )
                for seed in range(together)
            ]
            begin = time.perf_counter()
            events: dict[int, list[Any]] = {}
            for index, event in stream_many(engine, asked):
                events.setdefault(index, []).append(event)
            taken = time.perf_counter() - begin
            count = sum(collect(each).usage.completion_tokens for each in events.values())
            seconds[name].append(taken / count)
    free, constrained = (statistics.median(seconds[name]) for name in ("free", "constrained"))
    return {
        "tokens_per_second": 1 / free,
        "constrained_tokens_per_second": 1 / constrained,
        "overhead": constrained / free - 1,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=10, help="replies by schema")
    parser.add_argument("--limit", type=int, default=2048, help="tokens of a reply")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of a timed reply")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--paths", default=",".join(PATHS), help="engines to time")
    parser.add_argument("--only", choices=("validity", "overhead", "collection"))
    parser.add_argument("--collection", type=Path, help="folder of JSON schemas")
    parser.add_argument("--count", type=int, default=500, help="schemas of the collection")
    parser.add_argument("--sample", type=int, default=0, help="asked by; 0 for all supported")
    parser.add_argument("--state", type=Path, help="file that keeps the collection's replies")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    args = parser.parse_args()
    result: dict[str, Any] = {}
    if args.only in (None, "validity"):
        with closing(engine_of("auto")) as engine:
            for adapter in (None, ADAPTER):
                for name, constrained in (("with", True), ("without", False)):
                    found = measure_validity(engine, args.seeds, args.limit, constrained, adapter)
                    result[f"validity_{adapter or 'base'}_{name}"] = found
                    report(f"{adapter or 'base'}, {name} the constraint: {found}")
    if args.only in (None, "overhead"):
        for path in args.paths.split(","):
            with closing(engine_of(path)) as engine:
                for together in (1, 16) if path == "native" else (1,):
                    found = measure_overhead(engine, args.tokens, together, args.rounds)
                    result[f"overhead_{path}_{together}"] = found
                    report(f"{path}, {together} at a time: {found}")
    if args.collection and args.only in (None, "collection"):
        with closing(engine_of("auto")) as engine:
            found = measure_collection(
                engine, args.collection, args.count, args.sample, args.limit, args.state
            )
            result["collection"] = found
            report(f"{args.collection.name}: {found}")
    if args.json:
        print(json.dumps(result))


def engine_of(path: str) -> LocalEngine:
    """Open the default model."""
    return LocalEngine.from_folder(
        MODEL,
        pull.ensure_model(MODEL).folder,
        resolve_placement("cpu"),
        engine=path,
        find_adapter=ADAPTERS.joinpath,
    )


def report(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
