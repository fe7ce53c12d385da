"""A real folder of many files: the build of its index is killed, goes on, and is updated."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from chatlm_rag.index.folder import find_index
from chatlm_rag.retrieval.search import Index
from tests import models

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "chatlm", "rag"]
MAX_FILES = 2000


def sources() -> Iterator[Path]:
    """Short Python files of this machine's Python and of its installed packages."""
    for name in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(name)).rglob("*.py")):
            if path.is_file() and 300 <= path.stat().st_size <= 1500:
                yield path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    for number, path in enumerate(islice(sources(), MAX_FILES)):
        place = root / path.parent.name / f"{number}-{path.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
    return root


def update(name: str) -> dict[str, int]:
    done = subprocess.run(
        [*COMMAND, "update", name, "--json"], check=True, capture_output=True, text=True
    )
    result: dict[str, int] = json.loads(done.stdout)
    return result


def test_a_large_folder(home: Path, folder: Path) -> None:
    models.lend(home, models.embedder_model())
    process = subprocess.Popen(
        [*COMMAND, "build", "code", str(folder)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:  # it prints its progress
        if line.startswith("20 %"):
            break
    process.kill()
    process.communicate()
    assert find_index("code").current() is None
    resumed = update("code")
    assert resumed["files"] == sum(path.is_file() for path in folder.rglob("*"))
    assert 0 < resumed["embedded"] <= resumed["passages"] * 0.9, "it went on where it was"
    assert update("code")["embedded"] == 0
    found = Index.open(find_index("code")).search("parse the arguments", 1)
    assert found[0].chunk.source.endswith(".py")
