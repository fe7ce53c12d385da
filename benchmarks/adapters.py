"""Speed of switching, using and training adapters, next to plain peft on the same model.

Run it with `python -m benchmarks.adapters`. All sides are loaded in one process and take turns in
each round. The two adapters that are switched have random numbers, rank 16 and all seven matrices
of a layer. Nothing here is a pass or a fail.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from benchmarks.single_tokens import no_guesses
from benchmarks.speed_sides import CPU, Prompt, Timing, Transformers, timed
from benchmarks.training import chatlm_training, peft_training
from chatlm import ModelLocation, load_pretrained
from chatlm.engines.local_engine import LocalEngine
from chatlm.hub import pull
from chatlm.types.events import Delta
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

MODEL = "smollm2-135m-instruct"
QUESTION = Message("user", "Write a very long story about a lighthouse, with many turns.")
RANK = 16
SWITCHES = 12
"""In each round, of each side; peft's reloads are a quarter of that."""

Table = dict[str, list[float]]
"""Measurements by program."""


def save_random(folder: Path, model: Path, seed: int) -> Path:
    """Write an adapter that acts, in bfloat16."""
    torch.manual_seed(seed)
    base = load_pretrained(ModelLocation(model.name, model, "chat"), device="cpu", dtype="bfloat16")
    settings = LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(base, settings, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_B" in name:
                tensor.normal_(std=0.01)
    adapted.save_pretrained(str(folder))
    return folder


class Peft:
    """`generate()` with peft's adapters, as their documentation has it.

    Args:
        model: folder of the model.
        adapters: folders by name.
    """

    def __init__(self, model: Path, adapters: dict[str, Path]) -> None:
        self.plain = Transformers(model)
        self.adapters = adapters
        self._side = Transformers(model)
        self._side._model = self._loaded(self._side._model, next(iter(adapters)))

    def reply(self, prompt: Prompt, tokens: int) -> Timing:
        """One with the adapter that is loaded."""
        return self._side.reply(prompt, tokens)

    def reload(self, name: str) -> float:
        """Take the adapter out and load another one; returns the seconds that it took."""
        start = time.perf_counter()
        self._side._model = self._loaded(self._side._model.unload(), name)
        return time.perf_counter() - start

    def _loaded(self, base: Any, name: str) -> Any:
        return PeftModel.from_pretrained(base, str(self.adapters[name])).eval()


def reply(engine: LocalEngine, adapter: str | None, tokens: int) -> Timing:
    """One of chatlm's, with an adapter or without."""
    wanted = Sampling(temperature=0.0, frequency_penalty=0.0, max_tokens=tokens)
    with no_guesses(), closing(engine.stream(Request((QUESTION,), wanted, adapter))) as events:
        return timed(event for event in events if isinstance(event, Delta))


def first_token(engine: LocalEngine, adapter: str | None) -> float:
    """Seconds from a request to its first token, whose prompt was read before."""
    start = time.perf_counter()
    for _ in engine.stream(Request((QUESTION,), Sampling(max_tokens=1), adapter)):
        pass
    return time.perf_counter() - start


def switching(fast: LocalEngine, slow: LocalEngine, peft: Peft, table: Table) -> None:
    """Add the seconds of each switch."""
    for adapter in (None, *peft.adapters):
        for engine in (fast, slow):
            first_token(engine, adapter)
    ring = [*peft.adapters, None]
    for number in range(SWITCHES):
        adapter = ring[number % len(ring)]
        for name, engine in (("chatlm", fast), ("chatlm, by transformers", slow)):
            table.setdefault(name, []).append(first_token(engine, adapter))
            table.setdefault(f"{name}, no switch", []).append(first_token(engine, adapter))
    for number in range(SWITCHES // 4):
        seconds = peft.reload(list(peft.adapters)[number % 2])
        table.setdefault("peft, unload and load", []).append(seconds)


def decoding(fast: LocalEngine, slow: LocalEngine, peft: Peft, tokens: int, table: Table) -> None:
    """Add the tokens a second of each side."""
    ids = [token.id for token in fast.preview(Request((QUESTION,))).tokens]
    prompt, name = Prompt((QUESTION,), ids), next(iter(peft.adapters))
    sides: dict[str, Callable[[], Timing]] = {
        "chatlm, base": lambda: reply(fast, None, tokens),
        "chatlm, adapter": lambda: reply(fast, name, tokens),
        "chatlm by transformers, base": lambda: reply(slow, None, tokens),
        "chatlm by transformers, adapter": lambda: reply(slow, name, tokens),
        "transformers, base": lambda: peft.plain.reply(prompt, tokens),
        "peft, adapter unmerged": lambda: peft.reply(prompt, tokens),
    }
    for side, run in sides.items():
        table.setdefault(side, []).append(run().tokens_per_second)


def training(table: Table) -> None:
    """Add the tokens a second of each side."""
    table.setdefault("chatlm adapters train", []).append(chatlm_training(MODEL))
    table.setdefault("plain peft loop", []).append(peft_training(MODEL))


def summary(table: Table) -> dict[str, dict[str, float]]:
    """Median, lowest and highest of each side."""
    return {
        name: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for name, values in table.items()
    }


def ratios(results: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """The goals for adapters, as ratios of medians."""

    def quotient(table: str, one: str, other: str) -> float:
        return results[table][one]["median"] / results[table][other]["median"]

    decode, train = "tokens_per_second", "training_tokens_per_second"
    found = {
        "switch: peft / chatlm": quotient("switch_ms", "peft, unload and load", "chatlm"),
        "decode: chatlm, adapter / base": quotient(decode, "chatlm, adapter", "chatlm, base"),
        "decode: peft unmerged / transformers": quotient(
            decode, "peft, adapter unmerged", "transformers, base"
        ),
        "decode: chatlm, adapter / peft unmerged": quotient(
            decode, "chatlm, adapter", "peft, adapter unmerged"
        ),
    }
    if train in results:
        found["training: chatlm / plain loop"] = quotient(
            train, "chatlm adapters train", "plain peft loop"
        )
    return found


def report(results: dict[str, dict[str, dict[str, float]]]) -> None:
    """A table of each kind, then the ratios."""
    print(f"{MODEL}, {torch.get_num_threads()} threads, adapters of rank {RANK} in bfloat16")
    for kind, rows in results.items():
        print(f"\n{kind.replace('_', ' ')}")
        for name, row in rows.items():
            span = f"({row['low']:.4g} to {row['high']:.4g})"
            print(f"  {name:<36}{row['median']:>10.4g}  {span}")
    print()
    for name, value in ratios(results).items():
        print(f"{name:<46}{value:>8.2f}")


def main() -> None:
    """Measure, then print tables, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds, all sides in each")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each reply")
    parser.add_argument("--trainings", type=int, default=2, help="trainings of each side")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder = pull.ensure_model(MODEL).folder
    switches: Table = {}
    speeds: Table = {}
    trained: Table = {}
    with tempfile.TemporaryDirectory() as place:
        adapters = {
            name: save_random(Path(place) / name, folder, seed)
            for seed, name in enumerate(("first", "second"))
        }
        fast, slow = (
            LocalEngine.from_folder(
                MODEL, folder, CPU, engine=way, find_adapter=adapters.__getitem__
            )
            for way in ("auto", "transformers")
        )
        peft = Peft(folder, adapters)
        for number in range(options.rounds):
            switching(fast, slow, peft, switches)
            decoding(fast, slow, peft, options.tokens, speeds)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    for number in range(options.trainings):
        training(trained)
        print(f"training {number + 1} of {options.trainings}", file=sys.stderr)
    results = {
        "switch_ms": summary({name: [1000 * s for s in all_] for name, all_ in switches.items()}),
        "tokens_per_second": summary(speeds),
    }
    if trained:
        results["training_tokens_per_second"] = summary(trained)
    if options.json:
        print(json.dumps({**results, "ratios": ratios(results)}, indent=2))
    else:
        report(results)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
