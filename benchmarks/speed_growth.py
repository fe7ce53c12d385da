"""Growth of decode time, time to the first token and memory with the context.

Run it with `python -m benchmarks.speed_growth --picture growth.svg`, on Linux. The default model
prefills a text of each length in the blocks of a chat and decodes some tokens after it, with each
value of the setting `weights` and by transformers. The benchmark has no pass or fail.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.speed_sides import CPU
from chatlm.engines.load import load
from chatlm.engines.model import Model
from chatlm.engines.prompt_cache import CachedPrompt, decode_batch
from chatlm.hub import pull

MODEL = "smollm2-135m-instruct"
LENGTHS = (50, 512, 1024, 2048, 4096, 6144, 8000)
WRITTEN = 12
"""Tokens timed at each length."""


@dataclass(frozen=True)
class Point:
    """Measurements of one decoder at one length of context."""

    tokens: int
    first_token_ms: float
    """From an empty cache to the end of the prefill."""
    token_ms: float
    """Median of the decoded tokens."""
    memory_mb: float
    """Additional resident memory, mainly the KV cache."""


def resident() -> int:
    """Return the resident memory of the process in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def grow(model: Model, lengths: Sequence[int]) -> list[Point]:
    """Measure each length."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 40_000, (max(lengths),), generator=generator).tolist()
    point(model, ids[: min(lengths)])  # warm-up: memory that is allocated once
    return [point(model, ids[:length]) for length in lengths]


def point(model: Model, ids: Sequence[int]) -> Point:
    """Prefill a text, and decode tokens after it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # return memory of the previous length
    before = resident()
    keys = CachedPrompt(model)
    start = time.perf_counter()
    for _ in keys.prefill(ids):
        pass
    first = time.perf_counter() - start
    seconds = []
    for token in ids[:WRITTEN]:
        start = time.perf_counter()
        decode_batch(model, [keys], [[token]])
        seconds.append(time.perf_counter() - start)
    token_ms = 1000 * statistics.median(seconds)
    return Point(len(ids), 1000 * first, token_ms, (resident() - before) / 1e6)


def draw(found: dict[str, list[Point]], file: Path) -> None:
    """Plot each measurement with one curve per decoder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = {
        "token_ms": "a token, ms",
        "first_token_ms": "first token, ms",
        "memory_mb": "memory for it, MB",
    }
    for axes, (name, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for way, points in found.items():
            axes.plot(
                [p.tokens for p in points], [getattr(p, name) for p in points], "o-", label=way
            )
        axes.set(title=title, xlabel="tokens of context", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(file)


def main() -> None:
    """Measure, then print a table, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    ways = "values of the setting `weights`, or transformers"
    parser.add_argument("--ways", default="auto,bf16,transformers", help=ways)
    parser.add_argument("--picture", type=Path, help="write a picture, .svg or .png")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lengths = [int(length) for length in options.lengths.split(",")]
    folder = pull.ensure_model(MODEL).folder
    found = {}
    for way in options.ways.split(","):
        setting = {"engine" if way == "transformers" else "weights": way}
        model = load(MODEL, folder, CPU, **setting)
        name = way if way == "transformers" else f"chatlm {model.info.weights}"
        found[name] = grow(model, lengths)
        print(f"{way} is done", file=sys.stderr)
    if options.picture is not None:
        draw(found, options.picture)
    if options.json:
        table = {way: [dataclasses.asdict(p) for p in points] for way, points in found.items()}
        print(json.dumps(table, indent=2))
        return
    print(f"{'':<16}{'tokens':>8}{'first, ms':>12}{'a token, ms':>14}{'memory, MB':>12}")
    for way, points in found.items():
        for p in points:
            print(
                f"{way:<16}{p.tokens:>8}{p.first_token_ms:>12.0f}{p.token_ms:>14.2f}"
                f"{p.memory_mb:>12.1f}"
            )


if __name__ == "__main__":
    main()
