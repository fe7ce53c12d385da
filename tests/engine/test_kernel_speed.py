"""The compiled kernel is timed without a model, if there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatlm.engines.native import kernel_speed
from chatlm.engines.native.compiler import kernel_library
from chatlm.engines.native.kernel import FORMATS
from chatlm.engines.native.kernel_speed import is_kernel_ready, measure_kernel


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_speed, "_WEIGHT_BYTES", 4 << 20)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("float32", [False, True])
def test_every_format_has_a_rate(float32: bool) -> None:
    kernel_library(float32=float32)
    assert is_kernel_ready(float32=float32)
    speed = measure_kernel(0.0, float32=float32)
    assert speed is not None
    assert all(speed.rate(name) > 0 for name in FORMATS)
    assert speed.layer_seconds >= 0


def test_a_kernel_that_must_be_compiled_first_is_not_measured(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_speed, "ready_library", lambda name: None)
    assert not is_kernel_ready(float32=False)
    assert measure_kernel(0.0, float32=False) is None


def test_without_a_compiler_there_is_no_kernel(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not is_kernel_ready(float32=False)
    assert measure_kernel(0.0, float32=False) is None


def test_a_library_that_does_not_open_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "decode.so"
    damaged.write_bytes(b"no library")
    monkeypatch.setattr(kernel_speed, "ready_library", lambda name: damaged)
    assert measure_kernel(0.0, float32=False) is None
