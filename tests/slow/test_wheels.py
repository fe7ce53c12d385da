"""A wheel with compiled libraries answers without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import default_model

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the wheel is one for Linux"),
]


def test_a_wheel_answers_without_a_compiler(tmp_path: Path) -> None:
    pytest.importorskip("ziglang", reason="zig compiles the libraries: pip install ziglang")
    machine = os.uname().machine
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT],
        env={**os.environ, "CHATLM_WHEEL": f"linux-{machine}"},
        check=True,
    )
    wheel = next(tmp_path.glob(f"chatlm-*-py3-none-manylinux*_{machine}.whl"))
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    folder = default_model()
    (home / "models" / folder.name).symlink_to(folder)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "chatlm", "ask", "--temperature", "0", "Color of the sky?"],
        env={
            **os.environ, "PYTHONPATH": str(site), "CHATLM_HOME": str(home), "CC": "/nowhere/cc",
        },
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0
    assert "blue" in done.stdout
    assert "C compiler" not in done.stderr
    assert not (home / "kernels").exists()
