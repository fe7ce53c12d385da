"""What is measured of this machine is stored only if no other program disturbed it."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from chatlm.config.config import Config
from chatlm.engines import fit, machine_speed, torch_threads
from chatlm.engines.fit import RunRecorder
from chatlm.engines.machine_speed import (
    UNKNOWN_COST,
    MachineSpeed,
    OtherLoad,
    RecordedRun,
    TokenCost,
    recorded_runs,
)
from chatlm.engines.native.kernel_speed import KernelSpeed
from chatlm.engines.torch_threads import single_torch_thread
from chatlm.hub.installed import ModelLocation
from chatlm.types.replies import Usage

KERNEL = KernelSpeed({"Q4_1": 2e9, "Q8_0": 3e9}, 30e-6)


class Processors:
    """Two processors of which this program has one; each reading is a second later."""

    def __init__(self, others: float) -> None:
        self._others = others
        self._seconds = 0.0

    def cpu_times(self) -> object:
        self._seconds += 1.0
        busy = self._seconds * (1.0 + self._others)
        return Times(user=busy, idle=2.0 * self._seconds - busy)

    def Process(self) -> object:
        own = types.SimpleNamespace(user=self._seconds, system=0.0)
        return types.SimpleNamespace(cpu_times=lambda: own)


class Times(tuple[float, ...]):
    def __new__(cls, **values: float) -> Times:
        made = super().__new__(cls, values.values())
        made.__dict__.update(values)
        return made


@pytest.fixture
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(machine_speed, "psutil", Processors(request.param))
    yield


@pytest.mark.parametrize(
    ("processors", "share"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.5)], indirect=["processors"]
)
@pytest.mark.usefixtures("processors")
def test_others_count_where_no_processor_is_idle(share: float) -> None:
    assert OtherLoad().share() == pytest.approx(share)


@pytest.mark.parametrize(
    ("processors", "kept"), [(0.0, True), (1.0, False)], indirect=["processors"]
)
@pytest.mark.usefixtures("processors")
def test_a_speed_that_others_disturbed_is_measured_again_at_the_next_load(
    home: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    measured(monkeypatch, MachineSpeed(1e9, KERNEL), MachineSpeed(2e9, KERNEL))
    assert machine_speed.machine_speed().bandwidth == 1e9
    machine_speed.refresh_machine_speed()
    assert machine_speed.machine_speed() == MachineSpeed(1e9 if kept else 2e9, KERNEL)
    assert json.loads((home / "speed.json").read_text())["bandwidth"]


@pytest.mark.parametrize("processors", [1.0], indirect=True)
@pytest.mark.usefixtures("processors")
def test_a_busy_moment_does_not_make_the_machine_look_slower(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = KernelSpeed({"Q4_1": 1e9, "Q8_0": 4e9}, 90e-6)
    measured(monkeypatch, MachineSpeed(3e9, KERNEL), MachineSpeed(1e9, slow))
    machine_speed.machine_speed()
    machine_speed.refresh_machine_speed()
    best = KernelSpeed({"Q4_1": 2e9, "Q8_0": 4e9}, 30e-6)
    assert machine_speed.machine_speed() == MachineSpeed(3e9, best)


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("processors", [0.0], indirect=True)
def test_a_kernel_is_measured_as_soon_as_there_is_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, MachineSpeed(1e9), MachineSpeed(1e9, KERNEL))
    ready = False
    monkeypatch.setattr(machine_speed, "is_kernel_ready", lambda *, float32: ready)
    assert machine_speed.machine_speed().kernel is None
    machine_speed.refresh_machine_speed()
    assert machine_speed.machine_speed().kernel is None
    ready = True
    machine_speed.refresh_machine_speed()
    assert machine_speed.machine_speed().kernel == KERNEL


@pytest.mark.parametrize(
    "damage",
    [
        {"bytes_per_second": {}},
        {"bytes_per_second": {"Q4_1": 0}},
        {"bytes_per_second": 7},
        {"layer_seconds": -1},
        {"layer_seconds": "long"},
    ],
)
@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("processors", [0.0], indirect=True)
def test_a_damaged_measurement_is_made_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, damage: dict[str, object]
) -> None:
    measured(monkeypatch, MachineSpeed(1e9, KERNEL), MachineSpeed(2e9, KERNEL))
    machine_speed.machine_speed()
    stored = json.loads((home / "speed.json").read_text())
    stored["bandwidth"]["cpu"]["kernel"].update(damage)
    (home / "speed.json").write_text(json.dumps(stored))
    assert machine_speed.machine_speed().bandwidth == 2e9


def test_a_speed_is_that_of_the_same_machine_in_a_thread_that_begins_during_a_reply(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, MachineSpeed(1e9, KERNEL), MachineSpeed(2e9, KERNEL))
    monkeypatch.setattr(torch_threads, "_usual", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert machine_speed.machine_speed().bandwidth == 1e9
        with single_torch_thread(), ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
            assert pool.submit(machine_speed.machine_speed).result().bandwidth == 1e9
    finally:
        torch.set_num_threads(threads)


def test_a_reply_that_others_slowed_down_corrects_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "refresh_machine_speed", lambda: None)
    recorder = RunRecorder(Config(), (), ModelLocation("m", tmp_path, "chat"))
    cost = TokenCost({"Q4_1": 1e9}, 30, 49152, "native")
    monkeypatch.setattr(recorder, "_cost", cost)
    info = types.SimpleNamespace(weights="4-bit", device="cpu")
    usage = Usage(completion_tokens=100, decode_seconds=10.0)
    recorder.record(info, usage, 0.5)  # type: ignore[arg-type]
    assert recorded_runs() == {}
    recorder.record(info, usage, 0.0)  # type: ignore[arg-type]
    run = recorded_runs()["m 4-bit"]
    assert run.tokens_per_second == pytest.approx(10.0, rel=0.02)
    assert run.cost == cost


def test_a_run_that_an_earlier_version_recorded_counts_for_its_model_alone(home: Path) -> None:
    run = {"tokens_per_second": 10.0, "bytes": 1e9, "seconds": 0.001, "device": "cpu"}
    home.mkdir(parents=True, exist_ok=True)
    (home / "speed.json").write_text(json.dumps({"format": 1, "runs": {"m 4-bit": run}}))
    assert recorded_runs() == {"m 4-bit": RecordedRun(10.0, UNKNOWN_COST, "cpu")}


def measured(monkeypatch: pytest.MonkeyPatch, *speeds: MachineSpeed) -> None:
    """Let the machine be as fast as this, one measurement after the other."""
    left = iter(speeds)
    monkeypatch.setattr(machine_speed, "measure_machine_speed", lambda kind: next(left))
