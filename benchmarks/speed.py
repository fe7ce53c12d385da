"""Prefill and decode speed of chatlm, transformers and llama.cpp with the same weights.

Run it with `python -m benchmarks.speed`. All programs are loaded in one process and take turns in
each round, greedy, with the same ids and number of threads. The floor is the time to read the
weights once at the memory bandwidth measured in the same round. llama.cpp needs the package
llama-cpp-python (`pip install 'chatlm[bench]'`). chatlm's speculative decoding is off, since a
repetitive story would flatter it; `benchmarks.speed_together` measures it. The benchmark has no
pass or fail.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import speed_quality
from benchmarks.speed_quality import Quality
from benchmarks.speed_sides import Chatlm, LlamaCpp, Prompt, Side, Timing, Transformers, no_compiler
from chatlm import ModelLocation, load_pretrained
from chatlm.config import paths
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.kv_cache import kv_bytes_per_token
from chatlm.hub import pull
from chatlm.types.engine import Engine
from chatlm.types.messages import Message
from chatlm.types.requests import Request

MODEL = "smollm2-135m-instruct"
DOCS = [Path(__file__).parents[1] / "docs" / name for name in ("guide.md", "plugins.md")]
QUESTION = "Write a very long story about a lighthouse, with many turns. "
SETTLE_SECONDS = 0.2
"""Pause before each reply, in which the threads of the previous program go to sleep."""

SAME_BITS = {"8-bit": "Q8_0", "16-bit": "BF16", "4-bit": "Q4_1"}
"""chatlm's formats, and those of llama.cpp with the same size."""


@dataclass
class Results:
    """The measurements, by program and length of the prompt."""

    default: str
    """chatlm with default settings."""
    prompts: dict[int, int]
    """Actual tokens of each prompt."""
    cache: int
    """Bytes of the KV cache per token of context."""
    weights: dict[str, float] = field(default_factory=dict)
    """Bytes of weights that are read per token."""
    timings: dict[str, dict[int, list[Timing]]] = field(default_factory=dict)
    bandwidth: list[float] = field(default_factory=list)
    """Bytes per second."""
    quality: dict[str, Quality] = field(default_factory=dict)

    def speed(self, side: str, prompt: int) -> float:
        """Return the median tokens per second."""
        return statistics.median(t.tokens_per_second for t in self.timings[side][prompt])

    def wait(self, side: str, prompt: int) -> float:
        """Return the median seconds to the first token."""
        return statistics.median(t.first_token for t in self.timings[side][prompt])

    def floor_share(self, side: str, prompt: int) -> float:
        """Return the median speed relative to the limit set by memory bandwidth."""
        size = self.weights[side] + self.cache * self.prompts[prompt]
        return self.speed(side, prompt) * size / statistics.median(self.bandwidth)


def bandwidth(buffer: torch.Tensor) -> float:
    """Measure the memory bandwidth of all threads in bytes per second; the best of five runs."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        buffer.sum()
        seconds.append(time.perf_counter() - start)
    return buffer.nbytes / min(seconds)


def prompt_of(engine: Engine, tokens: int, before: tuple[Message, ...] = ()) -> Prompt:
    """Return a prompt of just at most `tokens` tokens.

    Args:
        engine: counts them.
        tokens: limit.
        before: messages before the question.
    """
    words = " ".join(DOCS[0].read_text(encoding="utf-8").split()).split(" ")

    def message(count: int) -> tuple[Message, ...]:
        return (*before, Message("user", " ".join(words[:count]) + " " + QUESTION))

    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if engine.count_tokens(message(middle)) <= tokens:
            low = middle
        else:
            high = middle - 1
    messages = message(low)
    return Prompt(messages, [token.id for token in engine.preview(Request(messages)).tokens])


def sides_of(folder: Path, peers: Sequence[str]) -> list[Side]:
    """Load all programs."""
    chosen = Chatlm(None, folder)
    others = (Chatlm(None, folder, weights=form) for form in ("int8", "bf16", "int4"))
    sides: list[Side] = [chosen, *(side for side in others if side.form != chosen.form)]
    with no_compiler():
        sides.append(Chatlm("chatlm without a compiler", folder))
    if "transformers" in peers:
        sides.append(Transformers(folder))
    if "llamacpp" in peers:
        from benchmarks import speed_gguf

        files = speed_gguf.write_all(folder, paths.data_dir() / "benchmarks")
        sides += [LlamaCpp(f"llama.cpp {name}", file) for name, file in files.items()]
    return sides


def measure(sides: Sequence[Side], lengths: Sequence[int], rounds: int, tokens: int) -> Results:
    """Time all programs in turns, after a warm-up round."""
    chatlm = next(side for side in sides if isinstance(side, Chatlm))
    prompts = {length: prompt_of(chatlm.engine, length) for length in lengths}
    shape = read_config(pull.ensure_model(MODEL).folder)
    results = Results(
        default=chatlm.name,
        prompts={length: len(prompt.ids) for length, prompt in prompts.items()},
        cache=kv_bytes_per_token(shape, torch.bfloat16, "auto"),
        weights={side.name: side.bytes for side in sides},
        timings={side.name: {length: [] for length in lengths} for side in sides},
    )
    buffer = torch.ones(64 << 20)
    for number in range(rounds + 1):
        results.bandwidth.append(bandwidth(buffer))
        for length, prompt in prompts.items():
            for side in sides:
                time.sleep(SETTLE_SECONDS)
                timing = side.reply(prompt, tokens)
                if number:
                    results.timings[side.name][length].append(timing)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return results


def judge(sides: Sequence[Side], folder: Path) -> dict[str, Quality]:
    """Compare chatlm's formats, and bfloat16 in transformers, with float32."""
    module = load_pretrained(ModelLocation(MODEL, folder, "chat"), dtype="float32", device="cpu")
    mine = [side for side in sides if isinstance(side, Chatlm)]
    texts = speed_quality.texts(mine[0].engine.prompt_encoder._tokenizer, DOCS)
    reference = speed_quality.Reference(module, texts)
    qualities = {}
    for side in mine:
        model = side.engine._adapters.model
        qualities[side.name] = reference.compare(model)
    plain = Chatlm("transformers", folder, "transformers").engine._adapters.model
    return {**qualities, "transformers": reference.compare(plain)}


def ratios(results: Results) -> dict[str, dict[str, dict[int, float]]]:
    """Return speeds and waits of chatlm divided by those of each other program.

    The default is compared with transformers, each format with llama.cpp's of the same size.
    """
    pairs = {"transformers": (results.default, "transformers")}
    pairs["without a compiler / transformers"] = ("chatlm without a compiler", "transformers")
    for mine, theirs in SAME_BITS.items():
        pairs[f"llamacpp {theirs}"] = (f"chatlm {mine}", f"llama.cpp {theirs}")
        if results.default == f"chatlm {mine}":
            pairs["llamacpp"] = (results.default, f"llama.cpp {theirs}")
    known = {name: pair for name, pair in pairs.items() if pair[1] in results.timings}
    return {
        "decode_ratio": {
            name: {p: results.speed(a, p) / results.speed(b, p) for p in results.prompts}
            for name, (a, b) in known.items()
        },
        "first_token_ratio": {
            name: {p: results.wait(a, p) / results.wait(b, p) for p in results.prompts}
            for name, (a, b) in known.items()
        },
        "floor_share": {
            side: {p: results.floor_share(side, p) for p in results.prompts}
            for side in results.timings
        },
    }


def report(results: Results) -> None:
    """Print medians with best and worst by the length of the prompt, then ratios."""
    middle = statistics.median(results.bandwidth) / 1e9
    print(
        f"{MODEL}, {torch.get_num_threads()} threads, memory {middle:.1f} GB/s; "
        f"default: {results.default}"
    )
    for length, real in results.prompts.items():
        print(
            f"\n{f'prompt of {real} tokens':<28}{'tokens/s':>24}{'first token, ms':>24}{'floor':>8}"
        )
        for name, rows in results.timings.items():
            speed = _spread([t.tokens_per_second for t in rows[length]], best=max)
            wait = _spread([1000 * t.first_token for t in rows[length]], best=min)
            share = f"{100 * results.floor_share(name, length):.0f} %"
            print(f"{name:<28}{speed:>24}{wait:>24}{share:>8}")
    print(f"\n{'against float32':<28}{'KL':>10}{'top-1':>10}{'greedy':>10}")
    for name, quality in results.quality.items():
        greedy = f"{quality.greedy:.1f}/{speed_quality.WRITTEN}"
        print(f"{name:<28}{quality.divergence:>10.4f}{100 * quality.agreement:>8.1f} %{greedy:>10}")
    for what, table in ratios(results).items():
        if what != "floor_share":
            print(f"\n{what.replace('_', ' '):<36}" + "".join(f"{p:>8}" for p in results.prompts))
            for name, row in table.items():
                print(f"{name:<36}" + "".join(f"{value:>8.2f}" for value in row.values()))


def _spread(values: list[float], best: Any) -> str:
    worst = max if best is min else min
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1
    return f"{middle:.{digits}f} ({best(values):.{digits}f} to {worst(values):.{digits}f})"


def main() -> None:
    """Measure, then print tables, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peer", default="transformers", help="transformers, llamacpp, or both")
    parser.add_argument("--prompts", default="50,512,2048", help="tokens of the prompts")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all programs")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each reply")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    peers = [peer for peer in options.peer.split(",") if peer]
    if unknown := set(peers) - {"transformers", "llamacpp"}:
        parser.error(f"there is no peer {sorted(unknown)[0]}")
    lengths = [int(length) for length in options.prompts.split(",")]
    folder = pull.ensure_model(MODEL).folder
    sides = sides_of(folder, peers)
    results = measure(sides, lengths, options.rounds, options.tokens)
    results.quality = judge(sides, folder)
    if options.json:
        print(json.dumps({**dataclasses.asdict(results), **ratios(results)}, indent=2))
    else:
        report(results)


if __name__ == "__main__":
    main()
