"""Speed, memory and disk of chatlm beside llama.cpp, OpenVINO GenAI and transformers at real sizes.

Run it with `python -m benchmarks.sizes`, on Linux. All programs but transformers open the same GGUF
file: random weights in the shapes of real models, or real files. Each measurement is a process of
its own, and the programs take turns. The floor is the time to read the weights and the KV cache
once at the memory bandwidth measured in the same run. chatlm's speculative decoding is off. Peers
are installed into environments of their own; llama.cpp is compiled, for half an hour. Targets are
printed beside what was measured, but nothing here is a pass or a fail.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import torch

from benchmarks.peer_environments import RECIPES, peer_python
from benchmarks.random_blocks import TYPES
from benchmarks.random_gguf import QUANTS, SHAPES
from benchmarks.sizes_child import PEERS
from benchmarks.sizes_run import (
    DEFAULT_MODEL,
    LENGTHS,
    LeftOut,
    ModelFile,
    Sizes,
    available_memory,
    chatlm_command,
    imported,
    measured_bandwidth,
    memory_to_use,
    peer_command,
    random_file,
    read_once,
    read_sizes,
    real_file,
    run_child,
)
from chatlm.hub import pull

REAL = ("135m", "gemma3-270m")
SHORT, FIRST, LONG = LENGTHS
HIGHER_IS_BETTER = ("tokens_per_second", "processor_share")


@dataclass
class Measured:
    """The measurements of one program with one file; lists have a number for each round."""

    left_out: str = ""
    """Why it was not measured."""
    about: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add a measurement."""
        self.numbers.setdefault(name, []).append(value)

    def middle(self, name: str) -> float | None:
        """Return the median, or None if it was not measured."""
        values = self.numbers.get(name)
        return statistics.median(values) if values else None

    def keep_best(self) -> None:
        """Drop all but the best of each measurement."""
        for name, values in self.numbers.items():
            values[:] = [max(values) if name.startswith(HIGHER_IS_BETTER) else min(values)]


@dataclass
class FileResults:
    """All that was measured with one file."""

    name: str
    bytes: int
    sizes: Sizes
    bandwidth: list[float] = field(default_factory=list)
    """Bytes per second in each round."""
    imported: dict[str, float] = field(default_factory=dict)
    """What it takes chatlm to get to know the file."""
    prompts: dict[str, int] = field(default_factory=dict)
    """Actual tokens of each prompt."""
    programs: dict[str, Measured] = field(default_factory=dict)

    def floor_share(self, program: str, context: int) -> float | None:
        """Return the speed relative to the limit set by memory bandwidth."""
        speed = self.programs[program].middle(f"tokens_per_second_{context}")
        size = self.sizes.weight_bytes + self.sizes.cache_bytes(context)
        return speed and speed * size / statistics.median(self.bandwidth)

    def ratio(self, name: str, peer: str) -> float | None:
        """Return chatlm's median divided by a peer's."""
        both = (self.programs.get(each, Measured()).middle(name) for each in ("chatlm", peer))
        mine, theirs = both
        return mine / theirs if mine and theirs else None


def measure(file: ModelFile, options: argparse.Namespace, pythons: dict[str, str]) -> FileResults:
    """Measure all programs with a file."""
    results = FileResults(file.name, file.bytes, read_sizes(file.path))
    results.programs = {name: Measured() for name in ("chatlm", *pythons)}
    home = options.cache / "home"
    env = {"CHATLM_HOME": str(home), "OMP_NUM_THREADS": str(options.threads)}
    task = {
        "context": -(-(LONG + options.tokens + 1) // 256) * 256,
        "threads": options.threads,
        "prompts": str(options.cache / "prompts.json"),
        "memory": memory_to_use(file.bytes),
    }
    mine = {**task, "file": str(file.path), "settings": dict(options.set)}
    with ExitStack() as stack:
        try:
            results.imported = stack.enter_context(imported(file, home))
            if file.name in REAL:
                run_child(chatlm_command(), {**mine, "lengths": LENGTHS}, env)
            # a first run may compile a kernel
            run_child(chatlm_command(), {**mine, "replies": [(SHORT, 1)]}, env)
        except LeftOut as reason:
            results.programs["chatlm"].left_out = str(reason)
        prompts = json.loads(Path(task["prompts"]).read_text(encoding="utf-8"))
        results.prompts = {length: len(prompt["ids"]) for length, prompt in prompts.items()}
        tasks = {"chatlm": (chatlm_command(), mine)}
        for name, python in pythons.items():
            tasks[name] = (peer_command(python), {**task, **_peer_task(name, file)})
            _leave_out(results, name)
        for number in range(1, options.rounds + 1):
            results.bandwidth.append(measured_bandwidth())
            for replies in (
                [(SHORT, options.tokens), (FIRST, 1), (LONG, options.tokens)],
                [(FIRST, 1)],
            ):
                for name, (command, own) in tasks.items():
                    _add(results, name, command, {**own, "replies": replies}, env)
            print(f"{file.name}: round {number} of {options.rounds}", file=sys.stderr)
    return results


def write_prompts(options: argparse.Namespace) -> None:
    """Write the prompts of the random files, all of which have the default model's tokenizer."""
    task = {
        "file": DEFAULT_MODEL, "context": 2 * LONG, "lengths": LENGTHS,
        "prompts": str(options.cache / "prompts.json"),
    }  # fmt: skip
    run_child(chatlm_command(), task, {})


def _peer_task(name: str, file: ModelFile) -> dict[str, str]:
    path = file.folder if name == "transformers" and file.folder else file.path
    return {"program": name, "file": str(path)}


def _leave_out(results: FileResults, name: str) -> None:
    needed = 2 * results.sizes.parameters * 1.1 + (1 << 30)
    if name == "transformers" and needed > available_memory():
        results.programs[name].left_out = f"its {needed / 1e9:.1f} GB do not fit the memory"


def _add(
    results: FileResults,
    name: str,
    command: Sequence[str],
    task: dict[str, Any],
    env: dict[str, str],
) -> None:
    """Run a task, and add what it measured."""
    program = results.programs[name]
    if program.left_out:
        return
    read_once(Path(task["file"]))
    try:
        found = run_child(list(command), task, env)
    except LeftOut as reason:
        program.left_out = str(reason)
        print(f"{results.name}: {name}: {reason}", file=sys.stderr)
        return
    program.about = found["about"]
    first, *others = found["replies"]
    program.add("start_seconds", found["import_seconds"])
    program.add("open_seconds", found["open_seconds"])
    for name in ("start_to_first_token", "open_to_first_token"):
        program.add(f"{name}_{first['length']}", found[name])
    if not others:
        program.add(f"fresh_first_token_{first['length']}", first["first_token"])
        return
    program.add("opened_memory", found["memory_opened"]["resident"])
    program.add("peak_memory", found["memory"]["peak"])
    program.add("resting_memory", found["memory"]["resident"])
    program.add("resting_memory_of_no_file", found["memory"]["anonymous"])
    for reply in found["replies"]:
        program.add(f"first_token_{reply['length']}", reply["first_token"])
        program.add(f"processor_share_{reply['length']}", reply["processor_share"])
        if reply["tokens_per_second"]:
            program.add(f"tokens_per_second_{reply['length']}", reply["tokens_per_second"])


ROWS: tuple[tuple[str, str, float, int], ...] = (
    ("process start, s", "start_seconds", 1, 2),
    ("opening the file, s", "open_seconds", 1, 2),
    (f"start to first token of {SHORT}, s", f"start_to_first_token_{SHORT}", 1, 2),
    (f"open to first token of {SHORT}, s", f"open_to_first_token_{SHORT}", 1, 2),
    (f"open to first token of {FIRST}, s", f"open_to_first_token_{FIRST}", 1, 2),
    (f"first token of {FIRST}, fresh, s", f"fresh_first_token_{FIRST}", 1, 2),
    (f"first token of {FIRST}, s", f"first_token_{FIRST}", 1, 2),
    (f"first token of {LONG}, s", f"first_token_{LONG}", 1, 2),
    (f"tokens/s at {SHORT}", f"tokens_per_second_{SHORT}", 1, 1),
    (f"tokens/s at {LONG:,}", f"tokens_per_second_{LONG}", 1, 1),
    (f"% of the processor, at {FIRST}", f"processor_share_{FIRST}", 100, 0),
    (f"% of the processor, at {LONG:,}", f"processor_share_{LONG}", 100, 0),
    ("peak memory, GB", "peak_memory", 1e-9, 2),
    ("resting memory, GB", "resting_memory", 1e-9, 2),
    ("of it without files, GB", "resting_memory_of_no_file", 1e-9, 2),
)
"""Label, measurement, factor and decimal places."""

DECODE_TARGETS = {"q4_k_m": 1.4, "q8_0": 1.2, "bf16": 1.0}
FIRST_TOKEN_TARGETS = {"q4_k_m": 0.5, "q8_0": 0.6, "bf16": 0.85}
"""Relative to llama.cpp, by quantization."""


def targets(results: FileResults, tokens: int) -> dict[str, dict[str, float | bool]]:
    """Return what issue 21 asks for: each value of chatlm, its limit, and whether it is met."""
    mine = results.programs["chatlm"]
    llama = results.programs.get("llamacpp", Measured())
    openvino = results.programs.get("openvino", Measured())
    real = results.name in REAL
    quant = "q4_k_m" if real else results.name.rpartition(" ")[2]  # both have 4 bits
    found: dict[str, dict[str, float | bool]] = {}

    def aim(name: str, value: float | None, limit: float | None, *, least: bool = False) -> None:
        if value is not None and limit is not None:
            met = value >= limit if least else value <= limit
            found[name] = {"value": value, "limit": limit, "met": met}

    kept = results.sizes.cache_bytes(LONG + tokens)
    most = max(1.1 * results.bytes + kept + 0.5e9, llama.middle("peak_memory") or 0.0)
    aim("peak memory", mine.middle("peak_memory"), most)
    for context in () if real or results.sizes.parameters < 0.5e9 else (SHORT, LONG):
        name = f"tokens_per_second_{context}"
        ratio = results.ratio(name, "llamacpp")
        aim(f"{name} / llama.cpp", ratio, DECODE_TARGETS.get(quant), least=True)
    for name in (f"first_token_{FIRST}", f"fresh_first_token_{FIRST}"):
        aim(f"{name} beside OpenVINO", mine.middle(name), openvino.middle(name))
    name = f"first_token_{FIRST}"
    aim(f"{name} / llama.cpp", results.ratio(name, "llamacpp"), FIRST_TOKEN_TARGETS.get(quant))
    name = f"open_to_first_token_{SHORT}"
    aim(f"{name} beside llama.cpp", mine.middle(name), llama.middle(name))
    return found


def report(results: FileResults, tokens: int) -> None:
    """Print a table of the programs, with chatlm's targets."""
    sizes = results.sizes
    print(
        f"\n{results.name}: {sizes.parameters / 1e9:.2f} billion weights in a file of "
        f"{results.bytes / 1e9:.2f} GB; for a token {sizes.weight_bytes / 1e9:.2f} GB are read "
        f"and at {LONG:,} a KV cache of {sizes.cache_bytes(LONG) / 1e9:.2f} GB, at "
        f"{statistics.median(results.bandwidth) / 1e9:.1f} GB/s"
    )
    if cost := results.imported:
        print(
            f"chatlm's import of the file: {cost['seconds']:.1f} s, peak memory "
            f"{cost['peak_memory'] / 1e9:.2f} GB, {cost['disk'] / 1e9:.2f} GB more on disk"
        )
    for name, program in results.programs.items():
        if program.left_out:
            print(f"{name} is left out: {program.left_out}")
    shown = {name: each for name, each in results.programs.items() if each.numbers}
    print(f"{'':<30}" + "".join(f"{name:>14}" for name in shown))
    for label, name, factor, places in ROWS:
        print(
            f"{label:<30}" + "".join(_cell(p.middle(name), factor, places) for p in shown.values())
        )
    for context in (SHORT, LONG):
        cells = (_cell(results.floor_share(name, context), 100, 0) for name in shown)
        print(f"{f'% of the floor at {context:,}':<30}" + "".join(cells))
    for name, target in targets(results, tokens).items():
        met = "met" if target["met"] else "missed"
        print(f"  {name}: {target['value']:.4g}, limit {target['limit']:.4g}: {met}")


def _cell(value: float | None, factor: float, places: int) -> str:
    return f"{'-' if value is None else f'{value * factor:.{places}f}':>14}"


def to_dict(results: FileResults, tokens: int) -> dict[str, Any]:
    """Convert to JSON values."""
    peers = [name for name in results.programs if name != "chatlm"]
    names = [name for _, name, _, _ in ROWS]
    return dataclasses.asdict(results) | {
        "cache_bytes": {context: results.sizes.cache_bytes(context) for context in LENGTHS},
        "floor_share": {
            name: {context: results.floor_share(name, context) for context in (SHORT, LONG)}
            for name in results.programs
        },
        "ratios": {peer: {name: results.ratio(name, peer) for name in names} for peer in peers},
        "targets": targets(results, tokens),
    }


CHECK_LENGTHS = (64, 96, 128, 160, 192, 224, 256, 320)
"""Tokens of the prompts whose replies are compared with llama.cpp's."""


def check(options: argparse.Namespace, python: str, files: Path) -> dict[str, Any]:
    """Compare chatlm's logits with the reference, and its choices with llama.cpp's; print both."""
    from benchmarks.sizes_check import MOST_DIVERGENCE, SMALL, compare_random

    home, tokenizer = options.cache / "home", pull.ensure_model(DEFAULT_MODEL).folder
    os.environ["CHATLM_HOME"] = str(home)
    found: dict[str, Any] = {"random": {}, "real": {}}
    print(f"{'':<18}{'KL':>10}{'top-1':>10}")
    for architecture in SMALL:
        for quant in options.types:
            quality = compare_random(architecture, quant, files, tokenizer)
            shutil.rmtree(home / "models", ignore_errors=True)
            found["random"][f"{architecture} {quant}"] = dataclasses.asdict(quality)
            print(
                f"{architecture + ' ' + quant:<18}{quality.divergence:>10.1e}"
                f"{100 * quality.agreement:>8.1f} %"
                f"{'' if quality.divergence <= MOST_DIVERGENCE else '  too far'}"
            )
    task = {
        "context": 1024, "threads": options.threads, "prompts": str(options.cache / "prompts.json"),
    }  # fmt: skip
    for name in options.real:
        file = real_file(name, files)
        mine = {**task, "file": str(file.path), "settings": dict(options.set)}
        with imported(file, home):
            run_child(chatlm_command(), {**mine, "lengths": CHECK_LENGTHS}, {})
            theirs = {**task, "program": "llamacpp", "file": str(file.path)}
            replies = [(length, 64) for length in CHECK_LENGTHS]
            replied = run_child(peer_command(python), {**theirs, "replies": replies}, {})
            written = {reply["length"]: reply["written"] for reply in replied["replies"]}
            result = run_child(chatlm_command(), {**mine, "written": written}, {})
        found["real"][name] = result
        print(
            f"{name}, {result['weights']}: {result['same']} of {result['compared']} tokens of "
            "llama.cpp's greedy text are chatlm's most likely ones; beside transformers in float32 "
            f"KL {result['divergence']:.1e}, top-1 {100 * result['agreement']:.1f} %"
        )
    return found


def _setting(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name for name in text.lower().split(",") if name]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(
                f"there is no {unknown[0]}; there are {', '.join(known)}"
            )
        return names

    return parse


def main() -> None:
    """Measure, then print tables, and JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--shapes", type=_names(tuple(SHAPES)), default="0.6b,1b,1.7b,4b,8b")
    parser.add_argument("--quants", type=_names(tuple(QUANTS)), default="q4_k_m,q8_0,bf16")
    parser.add_argument("--real", type=_names(REAL), default=",".join(REAL), help="real files")
    parser.add_argument("--peer", type=_names(tuple(PEERS)), default=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each reply")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="KEY=VALUE",
        help="a setting of chatlm, such as weights=int8",
    )  # fmt: skip
    parser.add_argument(
        "--cache", type=Path, default=Path(platformdirs.user_cache_dir("chatlm")) / "benchmarks",
        help="folder of files and of the peers' environments",
    )  # fmt: skip
    parser.add_argument(
        "--best", action="store_true",
        help="report the best of the rounds, not the median, on a machine that others use",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="compare logits instead of speed")
    parser.add_argument(
        "--types", type=_names(("q4_k_m", *map(str.lower, TYPES))),
        default=",".join(("q4_k_m", *TYPES)), help="what --check compares",
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the files for the next run")
    parser.add_argument(
        "--peer-python", type=_setting, action="append", default=[], metavar="PEER=PYTHON",
        help="use this Python, which has the peer's package, instead of an environment in --cache",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.cache = options.cache.absolute()
    given = dict(options.peer_python)
    pythons = {
        name: str(
            given.get(name)
            or (peer_python(name, options.cache / "peers") if name in RECIPES else sys.executable)
        )
        for name in options.peer
    }
    files = options.cache / "files"
    files.mkdir(parents=True, exist_ok=True)
    wanted: list[Callable[[], ModelFile]] = [
        *(lambda name=name: real_file(name, files) for name in options.real),
        *(
            lambda shape=shape, quant=quant: random_file(
                shape, quant, files, for_transformers="transformers" in pythons
            )
            for shape in options.shapes
            for quant in options.quants
        ),
    ]
    all_results = []
    try:
        if options.check:
            checked = check(options, pythons["llamacpp"], files)
            if options.json:
                print(json.dumps(checked))
            return
        for find in wanted:
            file = find()
            if file.name not in REAL:
                write_prompts(options)
            results = measure(file, options, pythons)
            if options.best:
                for program in results.programs.values():
                    program.keep_best()
            all_results.append(results)
            report(results, options.tokens)
            if not options.keep:
                file.path.unlink()
    finally:
        if not options.keep:
            shutil.rmtree(files)
        shutil.rmtree(options.cache / "home", ignore_errors=True)
    about = {
        name: p.about for results in all_results for name, p in results.programs.items() if p.about
    }
    for name, facts in about.items():
        print(f"\n{name}: " + "; ".join(f"{key} {value}" for key, value in facts.items()))
    if options.json:
        print(
            json.dumps(
                {
                    "about": about,
                    "threads": options.threads,
                    "load": os.getloadavg(),
                    "files": [to_dict(results, options.tokens) for results in all_results],
                }
            )
        )


if __name__ == "__main__":
    main()
