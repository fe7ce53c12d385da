"""Compare what a model was expected to need, before it was loaded, with what it needs.

    python -m benchmarks.fit --json

Memory: one chat that fills the context. Speed: replies of 64 tokens to short prompts, each right
after memory and kernel were measured; the median counts of those that no other program
disturbed. Each model runs in a process of its own, with a home of its own, so that no earlier run
corrects what is expected.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.random_gguf import SHAPES, write_model

MODELS = ("default", "0.6b", "1.7b-qwen3", "4b")
CONTEXT = 2048
REPLY_TOKENS = 64
REPLIES = 5

MAX_DISTURBANCE = 0.05
"""Share of the processors' time that others may take of a reply that counts."""

MOST_TRIES = 2
"""Replies that are tried for each that should count; the last ones count in any case."""


def main() -> None:
    """Prepare the models, measure each, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the numbers")
    parser.add_argument(
        "--models", default=",".join(MODELS), help="default or shapes of random_gguf"
    )
    parser.add_argument("--quant", default="q4_k_m", help="of the random models")
    parser.add_argument("--folder", type=Path, help="keep the random models here")
    parser.add_argument("--context", type=int, default=CONTEXT, help="tokens that the chat fills")
    parser.add_argument("--replies", type=int, default=REPLIES, help="that are timed")
    parser.add_argument("--prepare", action="store_true", help="only write the random models")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.context, arguments.replies)))
        return
    default = _default_model()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        rows = []
        for name in arguments.models.split(","):
            file = default if name == "default" else _random_model(folder, name, arguments.quant)
            if arguments.prepare:
                continue
            home = Path(temporary) / f"home-{name}"
            rows.append({"model": name, **_run_child(arguments, str(file), home, default)})
        if arguments.json:
            print(json.dumps(rows, indent=1))
        elif rows:
            _print_table(rows)


def _default_model() -> Path:
    from tests.models import default_model

    return default_model()


def _random_model(folder: Path, shape: str, quant: str) -> Path:
    """Return the folder of a random model; it is written if it is not there."""
    target = folder / f"{shape}-{quant}"
    if not target.is_dir():
        from chatlm.hub.gguf_folder import prepare_in_process

        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{shape}-{quant}.gguf"
        file.unlink(missing_ok=True)
        write_model(file, SHAPES[shape], quant, _default_model())
        part = target.with_suffix(".part")
        prepare_in_process(file, part)
        file.rename(part / file.name)
        part.rename(target)
    return target


def _run_child(
    arguments: argparse.Namespace, model: str, home: Path, default: Path
) -> dict[str, Any]:
    home.mkdir(parents=True, exist_ok=True)
    kernels = home / "kernels"
    if not kernels.exists():
        shared = default.parents[1] / "kernels"
        shared.mkdir(exist_ok=True)  # nothing may have been compiled yet
        kernels.symlink_to(shared, target_is_directory=True)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.fit",
            "--child",
            model,
            "--context",
            str(arguments.context),
            "--replies",
            str(arguments.replies),
        ],
        env={**os.environ, "CHATLM_HOME": str(home)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def measure(model: str, context: int, replies: int) -> dict[str, Any]:
    """Return what was expected of a model and what was measured.

    Args:
        model: its folder.
        context: tokens that the chat fills.
        replies: that are timed.
    """
    from chatlm.config.config import Config
    from chatlm.engines.devices import resolve_placement
    from chatlm.engines.fit import FitChecker
    from chatlm.engines.machine_speed import MachineSpeed, OtherLoad, measure_machine_speed
    from chatlm.engines.memory_plan import FolderFacts, plan_model
    from chatlm.engines.open import open_engine
    from chatlm.engines.token_cost import speed_of, token_cost
    from chatlm.hub.installed import describe_model
    from chatlm.hub.jobs import ignore_progress
    from chatlm.plugin_host.host import PluginHost

    config = Config(model=model, context=context)
    fit = FitChecker(config).check(describe_model(model))
    assert fit is not None
    assert fit.memory is not None
    facts = FolderFacts(Path(model))
    plan = plan_model(facts, resolve_placement(config.device))
    assert plan is not None
    cost = token_cost(facts, plan, fit.engine)
    measurements: list[MachineSpeed] = []
    expected_speeds: list[float] = []
    speeds: list[float] = []
    with closing(open_engine(config, PluginHost(), ignore_progress)) as engine:
        tried = 0
        while len(speeds) < replies and tried < MOST_TRIES * replies:
            tried += 1
            others = OtherLoad()
            machine = measure_machine_speed()
            speed = _reply(engine, f"Say something about the number {tried}.")
            is_last_chance = MOST_TRIES * replies - tried < replies - len(speeds)
            if others.share() > MAX_DISTURBANCE and not is_last_chance:
                continue
            measurements.append(machine)
            expected_speeds.append(speed_of(cost, plan.device, machine))
            speeds.append(speed)
        with _Peak() as peak:
            words = " ".join(f"w{n % 97}" for n in range(context))
            room = context - REPLY_TOKENS - 128
            while engine.count_tokens([_message(words)]) > room:
                words = words[: len(words) * 15 // 16]
            _reply(engine, words)
        weights = engine.info.weights
    expected = fit.memory.weights + fit.memory.kv_cache + fit.memory.program
    measured = peak.bytes
    errors = [wanted / got - 1 for wanted, got in zip(expected_speeds, speeds, strict=True)]
    return {
        "weights": weights,
        "bandwidth": statistics.median(each.bandwidth for each in measurements),
        **_describe_kernel(cost.weights, measurements),
        "memory_expected": expected,
        "memory_measured": measured,
        "memory_error": round(expected / measured - 1, 3),
        "parts_expected": fit.memory.to_dict(),
        "speed_expected": statistics.median(expected_speeds),
        "speed_measured": statistics.median(speeds),
        "speed_error": round(statistics.median(errors), 3),
        "speed_errors": [round(error, 3) for error in errors],
        "speed_claimed_error": fit.speed_error,
        "replies_tried": tried,
    }


def _describe_kernel(formats: Iterable[str], measurements: list[Any]) -> dict[str, Any]:
    """Return medians of what was measured of the kernel for a model's formats."""
    kernels = [each.kernel for each in measurements if each.kernel is not None]
    if not kernels:
        return {}
    return {
        "kernel": {
            name: statistics.median(each.rate(name) for each in kernels) for name in formats
        },
        "layer_seconds": statistics.median(each.layer_seconds for each in kernels),
    }


def _message(text: str) -> Any:
    from chatlm.types.messages import Message

    return Message("user", text)


def _reply(engine: Any, text: str) -> float:
    """Let the model reply and return its speed; drawn freely, so that nothing can be drafted."""
    from chatlm.types.events import Finished
    from chatlm.types.requests import Request
    from chatlm.types.sampling import Sampling

    sampling = Sampling(temperature=1.0, top_k=20, max_tokens=REPLY_TOKENS, seed=1)
    request = Request((_message(text),), sampling=sampling)
    for event in engine.stream(request):
        if isinstance(event, Finished):
            return float(event.usage.tokens_per_second or 0.0)
    raise AssertionError("the reply did not end")


class _Peak:
    """The largest resident memory of this process while a block runs."""

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, int(process.memory_info().rss))
            if self._done.wait(0.02):
                return


def _print_table(rows: list[dict[str, Any]]) -> None:
    heads = ("model", "weights", "memory expected", "measured", "error")
    print("| " + " | ".join((*heads, "tokens/s expected", "measured", "error")) + " |")
    print("|---" * 8 + "|")
    for row in rows:
        print(
            f"| {row['model']} | {row['weights']} | {row['memory_expected'] / 1e9:.2f} GB "
            f"| {row['memory_measured'] / 1e9:.2f} GB | {row['memory_error']:+.0%} "
            f"| {row['speed_expected']:.1f} | {row['speed_measured']:.1f} "
            f"| {row['speed_error']:+.0%} |"
        )
    for row in rows:
        rates = {"memory": row["bandwidth"], **row.get("kernel", {})}
        print(
            f"\n{row['model']}: "
            + ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in rates.items())
            + f", a layer {row.get('layer_seconds', 0) * 1e6:.0f} µs"
        )


if __name__ == "__main__":
    main()
