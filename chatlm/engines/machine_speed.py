"""How fast this machine reads memory and decodes, and how fast models ran on it; all is stored.

Decoding reads each weight once per token, so the bandwidth of the memory bounds the speed, and the
processor does where its own work takes longer (`KernelSpeed`). Both are measured in the same half
second, since both change on a machine that others use too.
"""

from __future__ import annotations

import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from chatlm.config import paths
from chatlm.engines.devices import resolve_placement
from chatlm.engines.native.kernel_speed import KernelSpeed, is_kernel_ready, measure_kernel
from chatlm.engines.torch_threads import usual_torch_threads

log = logging.getLogger(__name__)

_BANDWIDTH_SECONDS = 0.1
"""How long the bandwidth is measured, without the memory that is prepared for it."""

_KERNEL_SECONDS = 0.25
"""How long the kernel is measured, see `measure_kernel`."""

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
class MachineSpeed:
    """How fast a device reads memory, and main memory's processors decode."""

    bandwidth: float
    """Bytes per second."""
    kernel: KernelSpeed | None = None
    """Of the C kernel; None for other devices, or without one."""


@dataclass(frozen=True)
class TokenCost:
    """What a new token takes, whatever the machine."""

    weights: Mapping[str, float]
    """Bytes that are read from memory, by number format; empty if unknown."""
    layers: int
    vocabulary: int
    """Tokens that a sampler chooses from."""
    engine: str
    """What runs it, see `Fit.engine`."""

    @property
    def bytes(self) -> float:
        """Read from memory; 0 if unknown."""
        return sum(self.weights.values())


UNKNOWN_COST = TokenCost({}, 0, 0, "")


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


def machine_speed(device: str = "cpu") -> MachineSpeed:
    """Return how fast a device is.

    Args:
        device: cpu, mps or cuda:N.

    Returns:
        The stored values, or new ones, measured in about half a second.
    """
    kind = _kind(device)
    known = _stored_speed(kind)
    return known[0] if known else _measure_and_store(kind)


def refresh_machine_speed() -> None:
    """Measure main memory and processors again if they were measured more than a day ago, or
    before there was a kernel; it is called when a model is loaded, since other programs and the
    power supply change the speed."""
    known = _stored_speed("cpu")
    if known is None:
        return
    speed, measured_at = known
    is_old = time.time() - measured_at > _FRESH_SECONDS
    if is_old or (speed.kernel is None and is_kernel_ready(float32=_decodes_float32())):
        _measure_and_store("cpu")


def _kind(device: str) -> str:
    return device if device.startswith("cuda") else "cpu"


def _decodes_float32() -> bool:
    return resolve_placement("cpu").dtype is torch.float32


def _stored_speed(kind: str) -> tuple[MachineSpeed, float] | None:
    """Return the stored speed of this machine and when it was measured."""
    known = _read().get("bandwidth", {}).get(kind, {})
    try:
        if known["machine"] != _machine(kind) or float(known["bytes_per_second"]) <= 0:
            return None
        speed = MachineSpeed(float(known["bytes_per_second"]), _parse_kernel(known.get("kernel")))
        return speed, float(known["measured_at"])
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def _parse_kernel(values: Any) -> KernelSpeed | None:
    if values is None:
        return None
    rates = {str(name): float(rate) for name, rate in values["bytes_per_second"].items()}
    layer_seconds = float(values["layer_seconds"])
    if not rates or min(rates.values()) <= 0 or layer_seconds < 0:
        raise ValueError("no speed")
    return KernelSpeed(rates, layer_seconds)


def _measure_and_store(kind: str) -> MachineSpeed:
    others, known = OtherLoad(), _stored_speed(kind)
    measured = measure_machine_speed(kind)
    disturbed = others.share() > MAX_OTHERS
    if disturbed and known:  # it says less about the machine than what was measured before
        measured = _faster(measured, known[0])
    kernel = measured.kernel
    table = {
        "machine": _machine(kind),
        "bytes_per_second": round(measured.bandwidth),
        "kernel": None
        if kernel is None
        else {
            "bytes_per_second": {
                name: round(rate) for name, rate in kernel.bytes_per_second.items()
            },
            "layer_seconds": round(kernel.layer_seconds, 8),
        },
        # what others disturbed is measured again at the next load
        "measured_at": 0 if disturbed else round(time.time()),
    }
    stored = _read()
    _write({**stored, "bandwidth": {**stored.get("bandwidth", {}), kind: table}})
    return measured


def _faster(one: MachineSpeed, other: MachineSpeed) -> MachineSpeed:
    """Return the better of each number."""
    kernel = one.kernel or other.kernel
    if one.kernel and other.kernel:
        rates = other.kernel.bytes_per_second
        kernel = KernelSpeed(
            {
                name: max(rate, rates.get(name, 0.0))
                for name, rate in one.kernel.bytes_per_second.items()
            },
            min(one.kernel.layer_seconds, other.kernel.layer_seconds),
        )
    return MachineSpeed(max(one.bandwidth, other.bandwidth), kernel)


def measure_machine_speed(device: str = "cpu") -> MachineSpeed:
    """Measure how fast a device is, with as many threads as replies have.

    Args:
        device: cpu or cuda:N.
    """
    if device != "cpu":
        return MachineSpeed(_measure_cuda(device))
    kernel = measure_kernel(_KERNEL_SECONDS, float32=_decodes_float32())
    return MachineSpeed(measure_bandwidth(), kernel)


def measure_bandwidth() -> float:
    """Measure how many bytes of main memory are read per second, as the median of several passes,
    since caches hold a part of some."""
    import numpy as np

    threads = usual_torch_threads()
    parts = np.array_split(np.ones(_BYTES // 4, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:

        def read() -> None:
            list(pool.map(lambda part: np.dot(part, part), parts))

        return _BYTES / _usual_pass(read)


def _usual_pass(read: Callable[[], None]) -> float:
    """Return how long a pass takes, as the median."""
    read()  # the first one starts threads
    passes: list[float] = []
    end = time.perf_counter() + _BANDWIDTH_SECONDS
    while not passes or time.perf_counter() < end:
        started = time.perf_counter()
        read()
        passes.append(time.perf_counter() - started)
    return statistics.median(passes)


def _measure_cuda(device: str) -> float:
    numbers = torch.ones(_BYTES, dtype=torch.float32, device=device)  # 768 MiB
    total = numbers.numel() * numbers.element_size()

    def read() -> None:
        numbers.sum()
        torch.cuda.synchronize(device)

    return total / _usual_pass(read)


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
            "weights": {name: round(size) for name, size in run.cost.weights.items()},
            "layers": run.cost.layers,
            "vocabulary": run.cost.vocabulary,
            "engine": run.cost.engine,
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
        cost = UNKNOWN_COST
        if "weights" in value:  # earlier versions stored another cost; the speed is still known
            cost = TokenCost(
                {str(name): float(size) for name, size in value["weights"].items()},
                int(value["layers"]),
                int(value["vocabulary"]),
                str(value["engine"]),
            )
        run = RecordedRun(float(value["tokens_per_second"]), cost, str(value["device"]))
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    numbers = (cost.layers, cost.vocabulary, *cost.weights.values())
    return run if run.tokens_per_second > 0 and min(numbers) >= 0 else None


def _machine(device: str) -> str:
    return f"{platform.node()} {platform.machine()} {usual_torch_threads()} {device}"


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
