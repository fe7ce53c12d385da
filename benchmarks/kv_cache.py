"""Speed, memory and accuracy of a KV cache of 8 bits beside one of 16.

Run it with `python -m benchmarks.kv_cache`. Both are caches of one loaded model. For the speed they
are filled with random keys and values, since a token takes as long whatever they are, and take
turns in each round; with one thread (OMP_NUM_THREADS=1) its processor time is measured, which other
programs disturb least. For the accuracy the model reads a text in the blocks of a prompt and then
decodes what follows, token by token; the distributions of both are compared. The benchmark has no
pass or fail.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from benchmarks.speed_sides import CPU
from chatlm.engines.load import load
from chatlm.engines.native.kv_cache import KVFormat, kv_bytes_per_token
from chatlm.engines.native.model import NativeModel
from chatlm.engines.prompt_cache import CachedPrompt
from chatlm.engines.tokenizer import load_tokenizer
from chatlm.hub import pull

MODEL = "smollm2-135m-instruct"
DOCS = [Path(__file__).parents[1] / "docs" / name for name in ("guide.md", "plugins.md")]
FORMATS: tuple[KVFormat, ...] = get_args(KVFormat)
LENGTHS = (64, 2048, 8000)
WARM_UP, TIMED = 4, 24
"""Tokens of each measurement."""
READ, DECODED = 1024, 256
"""Tokens of each text that are prefilled, and that are then decoded."""


@dataclass(frozen=True)
class Speed:
    """Measurements at one length."""

    tokens: int
    token_ms: dict[str, float]
    """Time of a token, by format: the median over the rounds of the fastest, as other programs on
    the machine only add to it."""
    tokens_per_second: dict[str, float]
    cache_mb: dict[str, float]


@dataclass(frozen=True)
class Accuracy:
    """Agreement over all decoded tokens of the texts."""

    perplexity: dict[str, float]
    divergence: float
    """Mean KL divergence of 8 bits from 16, in nats."""
    agreement: float
    """Share of positions with the same most likely token."""
    positions: int


def time_tokens(model: NativeModel, kv_format: KVFormat, tokens: int) -> list[float]:
    """Return the seconds of each timed token after `tokens` tokens."""
    model.kv_format = kv_format
    cache = model.new_cache()
    kv_cache = cache.sequence_input([]).kv_cache
    kv_cache.reserve(tokens + WARM_UP + TIMED)
    generator = torch.Generator().manual_seed(0)
    for layer in kv_cache.buffer.layers:
        if layer.scales is None:
            layer.kv.normal_(generator=generator)
        else:
            layer.kv.random_(-127, 128, generator=generator)
            layer.scales.fill_(0.02)
    kv_cache.length = tokens
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for number in range(WARM_UP + TIMED):
        start = clock()
        cache.decode([1000 + number])
        seconds.append(clock() - start)
    return seconds[WARM_UP:]


def measure_speed(model: NativeModel, lengths: Sequence[int], rounds: int) -> list[Speed]:
    """Time both formats in turns."""
    speeds = []
    for tokens in lengths:
        seconds: dict[str, list[float]] = {kv_format: [] for kv_format in FORMATS}
        for _ in range(rounds):
            for kv_format in FORMATS:
                seconds[kv_format].append(min(time_tokens(model, kv_format, tokens)))
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        dtype = model.dtype
        speeds.append(
            Speed(
                tokens,
                {name: 1000 * value for name, value in medians.items()},
                {name: 1 / value for name, value in medians.items()},
                {
                    name: tokens * kv_bytes_per_token(model.config, dtype, name) / 1e6
                    for name in FORMATS
                },
            )
        )
    return speeds


def decoded(model: NativeModel, kv_format: KVFormat, ids: list[int]) -> Tensor:
    """Return the logarithms of the distributions after each decoded token."""
    model.kv_format = kv_format
    cached = CachedPrompt(model)
    for _ in cached.prefill(ids[:READ]):
        pass
    step = model.max_step_tokens
    ends = range(READ, len(ids), step)
    logits = [cached.cache.decode(ids[start : min(start + step, len(ids))]) for start in ends]
    return torch.cat(logits).float().log_softmax(-1)


def measure_accuracy(model: NativeModel, texts: Sequence[list[int]]) -> Accuracy:
    """Compare both formats on all texts."""
    losses: dict[str, list[Tensor]] = {kv_format: [] for kv_format in FORMATS}
    divergences, agreements = [], []
    for ids in texts:
        made = {kv_format: decoded(model, kv_format, ids) for kv_format in FORMATS}
        targets = torch.tensor(ids[READ + 1 :])[:, None]
        for kv_format, rows in made.items():
            losses[kv_format].append(-rows[:-1].gather(1, targets)[:, 0])
        whole, half = made["auto"], made["int8"]
        divergences.append((whole.exp() * (whole - half)).sum(-1))
        agreements.append((whole.argmax(-1) == half.argmax(-1)).float())
    return Accuracy(
        {name: math.exp(float(torch.cat(values).mean())) for name, values in losses.items()},
        float(torch.cat(divergences).mean()),
        float(torch.cat(agreements).mean()),
        len(torch.cat(agreements)),
    )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=MODEL, help="name of the model")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="tokens of context")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=8, help="texts for the accuracy; 0 for none")
    parser.add_argument(
        "--read", type=Path, nargs="*", default=DOCS, help="files that the texts are taken from"
    )
    parser.add_argument("--json", action="store_true", help="print numbers")
    arguments = parser.parse_args()
    folder = pull.ensure_model(arguments.model).folder
    model = load(arguments.model, folder, CPU)
    if not isinstance(model, NativeModel):
        parser.error(f"{arguments.model} has no native decoder")
    lengths = [int(length) for length in arguments.lengths.split(",")]
    with torch.inference_mode():
        speeds = measure_speed(model, lengths, arguments.rounds)
        accuracy = None
        if arguments.texts:
            text = "\n".join(path.read_text(encoding="utf-8") for path in arguments.read)
            ids = load_tokenizer(arguments.model, folder).encode(text)
            whole = READ + DECODED
            chunks = [ids[at : at + whole] for at in range(0, len(ids) - whole + 1, whole)]
            accuracy = measure_accuracy(model, chunks[: arguments.texts])
    if arguments.json:
        print(
            json.dumps(
                {
                    "speed": [asdict(speed) for speed in speeds],
                    "accuracy": accuracy and asdict(accuracy),
                }
            )
        )
        return
    print(f"{arguments.model}, {model.info.weights}, {torch.get_num_threads()} threads")
    for speed in speeds:
        cells = [
            f"{name}: {speed.tokens_per_second[name]:6.1f} tokens/s, {speed.cache_mb[name]:6.1f} MB"
            for name in FORMATS
        ]
        print(f"{speed.tokens:>6,} tokens   " + "   ".join(cells))
    if accuracy:
        print(
            f"{accuracy.positions:,} decoded tokens: perplexity "
            + ", ".join(f"{name} {value:.4f}" for name, value in accuracy.perplexity.items())
            + f"; KL {accuracy.divergence:.2e}, same top token {accuracy.agreement:.2%}"
        )


if __name__ == "__main__":
    main()
