"""How fast this machine reads memory, and how fast models ran on it; both are stored.

Decoding reads each weight once per token, so the bandwidth of the memory bounds the speed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from chatlm.config import paths

log = logging.getLogger(__name__)

MEASURE_SECONDS = 0.3
"""How long the bandwidth is measured, without the memory that is prepared for it."""

_BYTES = 192 << 20
"""Memory that is read: more than processors' caches hold."""

_FRESH_SECONDS = 24 * 3600.0
"""After this, a load measures again."""

MIN_TOKENS = 24
"""New tokens of a reply whose speed is recorded."""

MAX_OTHERS = 0.1
"""Share of the processors that other programs may take from what is measured and stored."""

_SATURATED = 0.9
"""Part of the processors' time that is in use when programs wait for each other."""

_FORMAT = 1


@dataclass(frozen=True)
class TokenCost:
    """What a new token costs, as estimated."""

    bytes: float
    """Read from memory; 0 if unknown."""
    seconds: float
    """Beside reading them."""


UNKNOWN_COST = TokenCost(0.0, 0.0)


@dataclass(frozen=True)
class RecordedRun:
    """How fast one model ran."""

    tokens_per_second: float
    cost: TokenCost
    device: str


class OtherLoad:
    """What other programs have taken of the processors since this was made."""

    def __init__(self) -> None:
        self._start = self._read()

    def share(self) -> float:
        """Return the share that others took from this program, also a hypervisor's, from 0 to 1.

        It is 0 as long as there are idle processors.
        """
        busy, own, passed = (
            now - then for now, then in zip(self._read(), self._start, strict=True)
        )
        if passed <= 0 or busy < _SATURATED * passed:
            return 0.0
        return min(1.0, max(0.0, (busy - own) / passed))

    def _read(self) -> tuple[float, float, float]:
        """Return seconds: of all that was used, of this process, and of all processors."""
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user and nice
        passed = sum(times) - twice
        idle = times.idle + getattr(times, "iowait", 0.0)
        return passed - idle, own.user + own.system, passed


def bandwidth(device: str = "cpu") -> float:
    """Return how many bytes of memory a device reads per second.

    Args:
        device: cpu, mps or cuda:N.

    Returns:
        The stored value, or a new measurement of about half a second.
    """
    kind = device if device.startswith("cuda") else "cpu"
    known = _stored_bandwidth(kind)
    return known[0] if known else _measure_and_store(kind)


def refresh_bandwidth() -> None:
    """Measure main memory again if it was measured more than a day ago; it is called when a model
    is loaded, since other programs and the power supply change the speed."""
    known = _stored_bandwidth("cpu")
    if known and time.time() - known[1] > _FRESH_SECONDS:
        _measure_and_store("cpu")


def _stored_bandwidth(kind: str) -> tuple[float, float] | None:
    """Return a stored bandwidth of this machine and when it was measured."""
    known = _read().get("bandwidth", {}).get(kind, {})
    try:
        if known["machine"] != _machine(kind) or float(known["bytes_per_second"]) <= 0:
            return None
        return float(known["bytes_per_second"]), float(known["measured_at"])
    except (TypeError, ValueError, KeyError):
        return None


def _measure_and_store(kind: str) -> float:
    others, known = OtherLoad(), _stored_bandwidth(kind)
    measured = measure_bandwidth(kind)
    disturbed = others.share() > MAX_OTHERS
    if disturbed and known:  # it says less about the memory than what was measured before
        measured = max(measured, known[0])
    table = {
        "machine": _machine(kind),
        "bytes_per_second": round(measured),
        # what others disturbed is measured again at the next load
        "measured_at": 0 if disturbed else round(time.time()),
    }
    stored = _read()
    _write({**stored, "bandwidth": {**stored.get("bandwidth", {}), kind: table}})
    return measured


def measure_bandwidth(device: str = "cpu", seconds: float = MEASURE_SECONDS) -> float:
    """Measure how many bytes of memory a device reads per second, with all its processors.

    Args:
        device: cpu or cuda:N.
        seconds: how long; the median of several passes counts, as caches hold a part of some.
    """
    return _measure_cuda(device, seconds) if device != "cpu" else _measure_main_memory(seconds)


def _measure_main_memory(seconds: float) -> float:
    import numpy as np

    threads = processors()
    parts = np.array_split(np.ones(_BYTES // 4, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:

        def read() -> None:
            list(pool.map(lambda part: np.dot(part, part), parts))

        return _BYTES / _usual_pass(read, seconds)


def _usual_pass(read: Callable[[], None], seconds: float) -> float:
    """Return how long a pass takes, as the median."""
    read()  # the first one starts threads
    passes: list[float] = []
    end = time.perf_counter() + seconds
    while not passes or time.perf_counter() < end:
        started = time.perf_counter()
        read()
        passes.append(time.perf_counter() - started)
    return statistics.median(passes)


def _measure_cuda(device: str, seconds: float) -> float:
    import torch

    numbers = torch.ones(_BYTES, dtype=torch.float32, device=device)  # 768 MiB
    total = numbers.numel() * numbers.element_size()

    def read() -> None:
        numbers.sum()
        torch.cuda.synchronize(device)

    return total / _usual_pass(read, seconds)


def processors() -> int:
    """Return how many processors this process may use."""
    with contextlib.suppress(AttributeError):  # only on Linux
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def record_run(name: str, weights: str, run: RecordedRun) -> None:
    """Store how fast a model ran; a new value counts for a third beside the earlier one.

    Args:
        name: of the model.
        weights: how they were held, see `EngineInfo.weights`.
        run: what was measured.
    """
    stored = _read()
    runs = stored.get("runs", {})
    key = f"{name} {weights}"
    speed = run.tokens_per_second
    if (before := _parse_run(runs.get(key))) is not None:
        speed = before.tokens_per_second + (speed - before.tokens_per_second) / 3
        if abs(speed - before.tokens_per_second) < 0.02 * speed:
            return
    runs = {
        **{each: value for each, value in runs.items() if each != key},
        key: {
            "tokens_per_second": round(speed, 2),
            "bytes": round(run.cost.bytes),
            "seconds": run.cost.seconds,
            "device": run.device,
        },
    }
    _write({**stored, "runs": dict(list(runs.items())[-200:])})


def recorded_runs() -> dict[str, RecordedRun]:
    """Return what was recorded, by name and weights; the latest last."""
    runs = _read().get("runs", {})
    parsed = {key: _parse_run(value) for key, value in runs.items()}
    return {key: run for key, run in parsed.items() if run is not None}


def _parse_run(value: Any) -> RecordedRun | None:
    try:
        cost = TokenCost(float(value["bytes"]), float(value["seconds"]))
        run = RecordedRun(float(value["tokens_per_second"]), cost, str(value["device"]))
    except (TypeError, ValueError, KeyError):
        return None
    return (
        run if run.tokens_per_second > 0 and run.cost.bytes >= 0 and run.cost.seconds >= 0 else None
    )


def _machine(device: str) -> str:
    return f"{platform.node()} {platform.machine()} {processors()} {device}"


def _file() -> Path:
    return paths.data_dir() / "speed.json"


def _read() -> dict[str, Any]:
    try:
        values = json.loads(_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        return {}
    parts = {key: values.get(key) for key in ("bandwidth", "runs")}
    return {key: part for key, part in parts.items() if isinstance(part, dict)}


def _write(values: dict[str, Any]) -> None:
    """Store what was measured; where it cannot be written, it is measured again next time."""
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        paths.write_atomically(_file(), [json.dumps({"format": _FORMAT, **values}, indent=1)])
    except OSError as error:
        log.info("the speed of this machine is not stored: %s", error)
