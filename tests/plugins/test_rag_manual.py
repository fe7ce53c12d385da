"""The shipped index is up to date with the manual, and answers questions about chatlm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chatlm import bundled_dir
from chatlm_rag.index import manifest
from chatlm_rag.index.checkpoint import EMBEDDINGS_FILE
from chatlm_rag.index.chunks import CHUNKS_FILE
from chatlm_rag.index.embedding import Embedder
from chatlm_rag.index.folder import find_index
from chatlm_rag.retrieval.grounding import find_passages
from chatlm_rag.retrieval.hits import origin_of
from tests import models

ROOT = Path(__file__).parents[2]
MOST_BYTES = 1_700_000

LEAST_COSINE = 0.9998
"""Between one text's vectors from two processors, where 0.99998 is the least that was seen; a text
with a sentence more is below 0.9995."""


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


def same_texts(stored: np.ndarray, fresh: np.ndarray) -> bool:
    """Whether each stored vector is that of the text whose fresh vector has the same place.

    Those of different processors differ a little in each number; what counts is their direction.
    """
    if stored.shape != fresh.shape:
        return False
    lengths = np.linalg.norm(stored, axis=1) * np.linalg.norm(fresh, axis=1)
    cosines = (stored * fresh).sum(axis=1) / lengths
    return bool((cosines > LEAST_COSINE).all())


def test_it_is_that_of_the_manual_as_it_is_now(rebuilt: Path) -> None:
    ours = bundled_dir("indices") / "manual"
    how = "run: python docs/manual_index.py"
    for name in ("1/manifest.json", f"1/{CHUNKS_FILE}", "CURRENT"):
        assert (ours / name).read_bytes() == (rebuilt / name).read_bytes(), how
    mine, again = (np.load(folder / "1" / EMBEDDINGS_FILE) for folder in (ours, rebuilt))
    assert same_texts(mine, again), how
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (ours, rebuilt)
    ]
    assert names[0] == names[1], how


def test_a_vector_of_another_text_is_noticed_and_one_of_another_processor_is_not() -> None:
    ours = bundled_dir("indices") / "manual"
    stored = np.load(ours / "1" / EMBEDDINGS_FILE)
    noise = np.random.default_rng(0).uniform(-1e-3, 1e-3, stored.shape)
    assert same_texts(stored, stored + noise), "the most that was seen is 8.6e-4"
    lines = (ours / "1" / CHUNKS_FILE).read_text(encoding="utf-8").splitlines()
    embedder = Embedder(models.embedder_model())
    for number in range(0, len(lines), 40):
        passage = json.loads(lines[number])
        changed = stored.copy()
        changed[number] = embedder.embed([f"{passage['title']}\n{passage['text']} Not so."])[0]
        assert not same_texts(changed, stored), passage
    assert not same_texts(stored[[1, 0, *range(2, len(stored))]], stored)
    assert not same_texts(stored[:-1], stored)


def test_it_is_small_and_says_nothing_of_the_machine_it_was_made_on() -> None:
    ours = bundled_dir("indices") / "manual"
    assert sum(path.stat().st_size for path in ours.rglob("*") if path.is_file()) < MOST_BYTES
    made = find_index("manual").open(manifest.read)
    assert {file.path for file in made.files} == {
        "README.md",
        *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if path.name != "api.md"),
    }
    assert all(file.stamp is None for file in made.files)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in ours.rglob("*"))


@pytest.mark.parametrize(
    ("question", "heading"),
    [
        ("How do I stop a reply?", "Stop, continue and regenerate a reply"),
        ("How do I write a plugin?", "A plugin in an afternoon"),
    ],
)
def test_questions_about_chatlm_find_their_heading(question: str, heading: str, home: Path) -> None:
    models.lend(home, models.embedder_model())
    first = origin_of(find_passages("manual", question)[0])
    assert first.place.rpartition(" > ")[2] == heading
    file = Path(first.path)
    assert file.is_relative_to(ROOT)
    assert heading in "\n".join(file.read_text(encoding="utf-8").split("\n")[first.line - 1 :][:9])
