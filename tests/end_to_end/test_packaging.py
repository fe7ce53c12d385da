"""A wheel has everything that chatlm needs, and its installation works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(out), str(ROOT)],
        check=True,
    )  # fmt: skip
    return next(out.glob("chatlm-*.whl"))


def test_wheel_holds_the_shipped_folders_and_no_weights_but_small_ones(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).infolist()
    names = [file.filename for file in files]
    for folder in ("prompts", "indices"):
        shipped = [
            p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in str(p)
        ]
        assert shipped
        for path in shipped:
            assert f"chatlm/{path.relative_to(ROOT).as_posix()}" in names
    for needed in ("chatlm/tui/chatlm.tcss", "chatlm/hub/catalogue.toml", "chatlm/py.typed"):
        assert needed in names
    assert not [name for name in names if name.startswith("tests") or name.endswith(".gguf")]
    weights = [file for file in files if file.filename.endswith(".safetensors")]
    assert {file.filename.rpartition("/")[0] for file in weights} == {
        "chatlm_emotion/classifiers/mood",
        "chatlm_lora/adapters/instruct",
        "chatlm_lora/adapters/pirate",
        "chatlm_lora/adapters/tools",
        "chatlm_rag/reading/reader",
    }
    assert all(file.file_size <= 2_000_000 for file in weights)
    assert wheel.stat().st_size < 9_000_000


def test_an_installed_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site),
         str(wheel)],
        check=True,
    )  # fmt: skip
    code = (
        "import chatlm, sys; from chatlm.config import paths; from chatlm.cli.main import main;"
        "print(chatlm.__file__); print(paths.bundled_dir('prompts').is_dir(),"
        "paths.bundled_dir('indices').is_dir()); sys.exit(main(['models', 'list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site), "CHATLM_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(site) in done.stdout
    assert "True True" in done.stdout
    assert "smollm2-135m-instruct" in done.stdout


def test_every_dependency_has_a_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    start = lines.index("dependencies = [") + 1
    block = lines[start : lines.index("[project.scripts]")]
    pins = [line for line in block if line.strip().startswith('"')]
    assert len(pins) > 10
    assert [line for line in pins if "# " not in line] == []


def test_ci_runs_what_the_readme_says() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make chat" in readme
    assert "make test" in readme
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
