"""The shipped index is that of the manual as it is now, and answers questions about chatlm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chatlm import shipped
from chatlm_rag import manifest
from chatlm_rag.folder import located
from chatlm_rag.grounding import passages
from chatlm_rag.origin import origin_of
from chatlm_rag.partial import EMBEDDINGS
from chatlm_rag.passages import LINES
from tests import models

ROOT = Path(__file__).parents[2]
MOST_BYTES = 1_000_000


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index, made anew."""
    home = tmp_path_factory.mktemp("home")
    models.lend(home, models.embedder_model())
    target = home / "again"
    subprocess.run(
        [sys.executable, ROOT / "docs" / "manual_index.py", target],
        check=True,
        timeout=600,
        env={**os.environ, "CHATLM_HOME": str(home)},
    )
    return target


def test_it_is_that_of_the_manual_as_it_is_now(rebuilt: Path) -> None:
    ours = shipped("indices") / "manual"
    how = "run: python docs/manual_index.py"
    for name in ("1/manifest.json", f"1/{LINES}", "CURRENT"):
        assert (ours / name).read_bytes() == (rebuilt / name).read_bytes(), how
    mine, again = (np.load(folder / "1" / EMBEDDINGS) for folder in (ours, rebuilt))
    assert np.abs(mine - again).max() < 1e-4, how
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (ours, rebuilt)
    ]
    assert names[0] == names[1], how


def test_it_is_small_and_says_nothing_of_the_machine_it_was_made_on() -> None:
    ours = shipped("indices") / "manual"
    assert sum(path.stat().st_size for path in ours.rglob("*") if path.is_file()) < MOST_BYTES
    made = located("manual").open(manifest.read)
    assert {file.path for file in made.files} == {
        "README.md",
        *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    }
    assert all(file.stamp is None for file in made.files)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in ours.rglob("*"))


@pytest.mark.parametrize(
    ("question", "heading"),
    [
        ("How do I stop a reply?", "Stop a reply, go on, ask again"),
        ("How do I write a plugin?", "A plugin in an afternoon"),
    ],
)
def test_questions_about_chatlm_find_their_heading(question: str, heading: str, home: Path) -> None:
    models.lend(home, models.embedder_model())
    first = origin_of(passages("manual", question)[0])
    assert first.place.rpartition(" > ")[2] == heading
    file = Path(first.path)
    assert file.is_relative_to(ROOT)
    assert heading in "\n".join(file.read_text(encoding="utf-8").split("\n")[first.line - 1 :][:9])
