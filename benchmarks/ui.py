"""Responsiveness of chatlm's UI: key presses, frames, CPU, memory and start-up.

Run it with `python -m benchmarks.ui`, on Linux. The whole program runs in a pseudo-terminal and is
typed into, idle and while a long reply streams: from an engine that writes at an even speed, and
from the real default model. `--peer oterm=PATH` and `--peer elia=PATH` run other chats beside it,
with a server that writes the same reply at the same speed. Nothing here is a pass or a fail.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.ui_engine import TOKENS, reply
from benchmarks.ui_programs import PEERS, Program, chatlm, chatlm_with_a_steady_model
from benchmarks.ui_server import serving
from benchmarks.ui_terminal import Terminal, first_shown, latencies

KEY_SECONDS = 0.15
"""Between two keys, on average: fast typing, and never in step with the frames."""
BURST = 40
"""Keys before the line is cleared."""
CLEAR = "\x15"  # ctrl+u
SETTLE_SECONDS = 2.0

Measures = dict[str, list[float]]
"""Values of all rounds, by measurement."""


def type_for(terminal: Terminal, seconds: float, seed: int) -> None:
    """Type letters that make no word, clear the line now and then."""
    letters = random.Random(seed)  # noqa: S311  # the same keys in every run
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        text = "".join(letters.choices("bcdfghjkmnpqrtvwxz", k=3))
        terminal.type(CLEAR)
        time.sleep(0.5)
        terminal.type(text)
        time.sleep(0.5)
        for _ in range(BURST):
            if time.perf_counter() > end:
                return
            key = letters.choice("bcdfghjkmnpqrtvwxz")
            text += key
            terminal.press(key, shows=text)
            time.sleep(KEY_SECONDS * letters.uniform(0.6, 1.4))


def leave_no_draft(terminal: Terminal) -> None:
    """Clear the line, or a program that keeps drafts begins the next round with it."""
    terminal.type(CLEAR)
    time.sleep(SETTLE_SECONDS)


@contextmanager
def open_terminal(program: Program) -> Iterator[Terminal]:
    """The program, ready to be typed into; ended afterwards."""
    terminal = Terminal(program.command, program.environment)
    try:
        terminal.wait_for(*program.ready)
        time.sleep(SETTLE_SECONDS)
        yield terminal
    finally:
        terminal.close()


def start(program: Program) -> dict[str, float]:
    """Seconds of a start, with files in the system's cache."""
    with open_terminal(program) as terminal:
        pass
    return {
        "start to first frame, s": first_shown(terminal, str.strip),
        "start to a composer that is ready, s": first_shown(
            terminal, lambda shown: program.composer in shown
        ),
    }


def idle(program: Program, seconds: float, seed: int) -> dict[str, float]:
    """Key presses while nothing else happens."""
    with open_terminal(program) as terminal:
        type_for(terminal, seconds, seed)
        leave_no_draft(terminal)
    return _keys(latencies(terminal), "idle")


def streaming(program: Program, what: str, seconds: float, seed: int) -> dict[str, float]:
    """Key presses, frames, CPU and memory while a reply streams."""
    with open_terminal(program) as terminal:
        before = terminal.usage()
        terminal.type(program.question)
        time.sleep(0.5)
        terminal.type(program.send)
        terminal.wait_for(program.answering)
        first = terminal.usage()
        type_for(terminal, seconds, seed)
        last = terminal.usage()
        leave_no_draft(terminal)
        after = terminal.usage()
    passed = last.at - first.at
    found = latencies(terminal, lambda shown: program.writing in shown)
    return {
        **_keys(found, what),
        f"frames a second, {what}": terminal.frames(first.at, last.at) / passed,
        f"CPU of one core, {what}, %": 100 * (last.cpu - first.cpu) / passed,
        f"memory before, {what}, MB": before.memory / 1e6,
        f"memory after, {what}, MB": after.memory / 1e6,
    }


def _keys(seconds: Sequence[float], what: str) -> dict[str, float]:
    if not seconds:
        raise SystemExit(f"{what}: no key was ever drawn")
    ordered = sorted(1000 * value for value in seconds)
    at_95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return {
        f"key to screen, {what}, keys": len(ordered),
        f"key to screen, {what}, median ms": statistics.median(ordered),
        f"key to screen, {what}, 95th percentile ms": at_95,
        f"key to screen, {what}, longest ms": ordered[-1],
    }


def main() -> None:
    """Measure, print a table, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds, all sides in each")
    parser.add_argument("--rate", type=float, default=60, help="tokens a second of the even engine")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens it is typed along with")
    parser.add_argument("--idle-keys", type=int, default=200)
    parser.add_argument("--model-seconds", type=float, default=30, help="along the real model")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PATH", help=f"of {', '.join(PEERS)}"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Measures] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(serving(reply(options.tokens), options.rate))
        real = chatlm(folder / "real")
        steady = chatlm_with_a_steady_model(folder / "steady", options.rate)
        peers = [PEERS[name](folder / name, path, url) for name, path in _pairs(options.peer)]
        for program in (real, steady, *peers):
            start(program)  # from here on its files are in the system's cache
        for seed in range(options.rounds):
            for program in (steady, *peers):
                rows = found.setdefault(program.name, {})
                _add(rows, start(real if program is steady else program))
                _add(rows, idle(program, options.idle_keys * KEY_SECONDS, seed))
                seconds = options.tokens / options.rate
                _add(rows, streaming(program, "streaming", seconds, seed))
                if program is steady:
                    _add(rows, streaming(real, "real model", options.model_seconds, seed))
            print(f"round {seed + 1} of {options.rounds}", file=sys.stderr)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        report(found)


def report(found: dict[str, Measures]) -> None:
    """Medians with best and worst."""
    names = list(dict.fromkeys(name for rows in found.values() for name in rows))
    print(f"{'median (best to worst)':<46}" + "".join(f"{name:>26}" for name in found))
    for name in names:
        cells = [_spread(name, rows[name]) if name in rows else "" for rows in found.values()]
        print(f"{name:<46}" + "".join(f"{cell:>26}" for cell in cells))


def _add(rows: Measures, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        rows.setdefault(name, []).append(value)


def _spread(name: str, values: Sequence[float]) -> str:
    best, worst = (max, min) if name.startswith(("frames", "keys")) else (min, max)
    digits = 2 if name.endswith(", s") else 0 if name.endswith(("keys", "MB")) else 1
    middle, good, bad = statistics.median(values), best(values), worst(values)
    return f"{middle:.{digits}f} ({good:.{digits}f} to {bad:.{digits}f})"


def _pairs(peers: Sequence[str]) -> Iterator[tuple[str, str]]:
    for peer in peers:
        name, equals, path = peer.partition("=")
        if name not in PEERS or not equals:
            raise SystemExit(f"--peer {peer}: write NAME=PATH, with a name of {', '.join(PEERS)}")
        yield name, path


if __name__ == "__main__":
    main()
