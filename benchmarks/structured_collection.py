"""A collection of real schemas: how many are supported, how fast they compile, what fits them."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.structured_replies import collect, judge
from chatlm.engines.local_engine import LocalEngine
from chatlm.errors import ChatlmError, UsageError
from chatlm.types.events import EngineEvent, Finished
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from chatlm.types.schemas import check_schema

TOGETHER = 16
"""Replies at a time."""


def measure_collection(
    engine: LocalEngine, folder: Path, count: int, sample: int, limit: int, state: Path | None
) -> dict[str, Any]:
    """Compile the schemas of a folder, and ask once by each that is supported, or by some.

    Args:
        engine: the model.
        folder: has the schemas as `.json` files, at any depth.
        count: how many to take, in the order of their names.
        sample: how many of the supported are asked by, drawn with a fixed seed; 0 for all.
        limit: tokens of a reply.
        state: file with the replies so far, one a line, so that a later run resumes; None for none.
    """
    paths = sorted(folder.rglob("*.json"))[:count]
    supported, seconds, refused = compile_all(engine, folder, paths, limit)
    names = list(supported)
    if 0 < sample < len(names):
        names = sorted(random.Random(1).sample(names, sample))  # noqa: S311
    done = read_state(state, limit)
    waiting = {name: supported[name] for name in names if name not in done}
    for name, verdict in ask(engine, waiting):
        done[name] = verdict
        print(f"{sum(n in done for n in names)}/{len(names)} {name}: {verdict}", file=sys.stderr)
        if state is not None:
            with state.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, verdict, limit]) + "\n")
    verdicts = Counter(done[name] for name in names)
    ended = verdicts["fits"] + verdicts["does not fit"]
    return {
        "schemas": len(paths),
        "supported": len(supported),
        "compile_seconds_p95": percentile(seconds, 0.95),
        "asked": len(names),
        "ended": ended,
        "valid": verdicts["fits"],
        "cut": verdicts["cut"],
        "failed": {
            why: times
            for why, times in verdicts.items()
            if why not in ("fits", "does not fit", "cut")
        },
        "refused": dict(refused.most_common(12)),
    }


def compile_all(
    engine: LocalEngine, folder: Path, paths: Sequence[Path], limit: int
) -> tuple[dict[str, tuple[Any, Request]], list[float], Counter[str]]:
    """Return the supported schemas with their requests, times of compilation, and refusals."""
    supported: dict[str, tuple[Any, Request]] = {}
    seconds: list[float] = []
    refused: Counter[str] = Counter()
    for path in paths:
        try:
            schema = json.loads(path.read_text(encoding="utf-8-sig"))
            check_schema(schema)
        except (ValueError, UsageError) as error:
            refused[f"invalid: {str(error)[:60]}"] += 1
            continue
        request = Request(
            (Message("user", f"Write an example of {path.stem} in JSON."),),
            Sampling(temperature=0.8, seed=1, max_tokens=limit, schema=json.dumps(schema)),
        )
        begin = time.perf_counter()
        try:
            engine.constraints.compile(request)
        except ChatlmError as error:
            refused[reason(error)] += 1
            continue
        seconds.append(time.perf_counter() - begin)
        supported[path.relative_to(folder).as_posix()] = schema, request
    return supported, seconds, refused


def ask(
    engine: LocalEngine, requests: Mapping[str, tuple[Any, Request]]
) -> Iterator[tuple[str, str]]:
    """Ask by each schema, several at a time; yield its name and how the reply fits it."""
    waiting = iter(requests.items())
    running: dict[int, tuple[str, Any, list[EngineEvent | Exception]]] = {}
    with closing(engine.batch()) as batch:
        while True:
            while len(running) < min(TOGETHER, batch.max_concurrency):
                following = next(waiting, None)
                if following is None:
                    break
                name, (schema, request) = following
                running[batch.add(request)] = name, schema, []
            if not running:
                return
            for index, event in batch.step():
                name, schema, events = running[index]
                events.append(event)
                if not isinstance(event, Finished | Exception):
                    continue
                del running[index]
                if isinstance(event, ChatlmError):  # too complex at a later token
                    yield name, reason(event)
                else:
                    yield name, judge(schema, collect(events))


def read_state(state: Path | None, limit: int) -> dict[str, str]:
    """Return what an earlier run found; what it cut is asked again where more is allowed."""
    if state is None or not state.exists():
        return {}
    lines = map(json.loads, state.read_text(encoding="utf-8").splitlines())
    return {name: verdict for name, verdict, at in lines if verdict != "cut" or at >= limit}


def reason(error: ChatlmError) -> str:
    """Return why a schema was refused, without what differs from schema to schema."""
    text = str(error).partition("followed: ")[2] or str(error)
    return text.split('"$ref"')[0][:70]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which a share of the values lies."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else None
