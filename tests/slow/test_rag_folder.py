"""An index of 2,000 real files: its build is killed and goes on, then it is brought up to date."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from chatlm_rag.index.folder import find_index
from chatlm_rag.retrieval.search import Index
from tests import models

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "chatlm", "rag"]
FILES = 2000


def sources() -> Iterator[Path]:
    """Short Python files of this machine's Python and of its installed packages."""
    for name in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(name)).rglob("*.py")):
            if path.is_file() and 300 <= path.stat().st_size <= 1500:
                yield path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    for number, path in enumerate(islice(sources(), FILES)):
        place = root / path.parent.name / f"{number}-{path.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
    return root


def update(name: str) -> tuple[dict[str, int], float]:
    begin = time.perf_counter()
    done = subprocess.run(
        [*COMMAND, "update", name, "--json"], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout), time.perf_counter() - begin


def test_a_folder_of_2000_files(home: Path, folder: Path) -> None:
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
    resumed, _ = update("code")
    assert resumed["files"] == FILES
    assert 0 < resumed["embedded"] <= resumed["passages"] * 0.9, "it went on where it was"
    unchanged, seconds = update("code")
    assert unchanged["embedded"] == 0
    assert seconds < 3
    Index.open(find_index("code")).search("parse the arguments")
    begin = time.perf_counter()
    index = Index.open(find_index("code"))
    opening = time.perf_counter() - begin
    assert opening < 0.1
    assert index.search("parse the arguments", 1)[0].chunk.source.endswith(".py")
    print(f"update {seconds:.2f} s, opening {1000 * opening:.1f} ms", file=sys.stderr)
