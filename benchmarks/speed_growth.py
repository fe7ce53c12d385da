"""How the time for a token, the wait for the first one and the memory grow with the context.

Run it with `python -m benchmarks.speed_growth --picture growth.svg`, on Linux. Each way of running
the default model reads a text of each length in the blocks of a chat and writes some tokens behind
it. Nothing here is a pass or a fail.
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
"""Tokens that are timed at each length."""


@dataclass(frozen=True)
class Point:
    """One way of running the model, at one length of context."""

    tokens: int
    first_token_ms: float
    """From an empty cache until the prompt is read."""
    token_ms: float
    """Median of the tokens that follow."""
    memory_mb: float
    """What the process holds more than before, keys and values above all."""


def resident() -> int:
    """Bytes of memory that the process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def grow(model: Model, lengths: Sequence[int]) -> list[Point]:
    """Read each of the lengths, and write behind it."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 40_000, (max(lengths),), generator=generator).tolist()
    point(model, ids[: min(lengths)])  # what is taken once, whatever the length
    return [point(model, ids[:length]) for length in lengths]


def point(model: Model, ids: Sequence[int]) -> Point:
    """Read a text, and write behind it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the length before needed is given back
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
    """A picture with a curve for each way, of each measure."""
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
    parser.add_argument("--ways", default="auto,bf16,off", help="values of the setting `fast`")
    parser.add_argument("--picture", type=Path, help="write a picture, .svg or .png")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lengths = [int(length) for length in options.lengths.split(",")]
    folder = pull.ensure_model(MODEL).folder
    found = {}
    for way in options.ways.split(","):
        model = load(MODEL, folder, CPU, way)
        name = "transformers" if way == "off" else f"chatlm {model.info.dtype.partition(' (')[0]}"
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
