"""What is measured of this machine is stored only if no other program disturbed it."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm.config.config import Config
from chatlm.engines import fit, machine_speed
from chatlm.engines.fit import RunRecorder
from chatlm.engines.machine_speed import OtherLoad, TokenCost, bandwidth, recorded_runs
from chatlm.hub.installed import ModelLocation
from chatlm.types.replies import Usage


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
def test_a_bandwidth_that_others_disturbed_is_measured_again_at_the_next_load(
    home: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    speeds = iter([1e9, 2e9])
    monkeypatch.setattr(machine_speed, "measure_bandwidth", lambda kind: next(speeds))
    assert bandwidth() == 1e9
    machine_speed.refresh_bandwidth()
    assert bandwidth() == (1e9 if kept else 2e9)
    assert json.loads((home / "speed.json").read_text())["bandwidth"]


@pytest.mark.parametrize("processors", [1.0], indirect=True)
@pytest.mark.usefixtures("processors")
def test_a_busy_moment_does_not_make_the_memory_look_slower(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = iter([3e9, 1e9])
    monkeypatch.setattr(machine_speed, "measure_bandwidth", lambda kind: next(speeds))
    assert bandwidth() == 3e9
    machine_speed.refresh_bandwidth()
    assert bandwidth() == 3e9


def test_a_reply_that_others_slowed_down_corrects_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "refresh_bandwidth", lambda: None)
    recorder = RunRecorder(Config(), (), ModelLocation("m", tmp_path, "chat"))
    monkeypatch.setattr(recorder, "_cost", TokenCost(1e9, 0.0))
    info = types.SimpleNamespace(weights="4-bit", device="cpu")
    usage = Usage(completion_tokens=100, decode_seconds=10.0)
    recorder.record(info, usage, 0.5)  # type: ignore[arg-type]
    assert recorded_runs() == {}
    recorder.record(info, usage, 0.0)  # type: ignore[arg-type]
    assert recorded_runs()["m 4-bit"].tokens_per_second == pytest.approx(10.0, rel=0.02)
