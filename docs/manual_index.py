"""Build indices/manual, the shipped index of chatlm's own manual.

Run `python docs/manual_index.py` after a change in README.md or docs/*.md; another folder may be
named, as the test does that compares. The embedder is pulled first if it is not installed.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from chatlm import data_dir, ensure_model
from chatlm.hub.jobs import ignore_progress
from chatlm.plugin_kit.artifacts import CURRENT_FILE
from chatlm_rag.documents.files import Source
from chatlm_rag.index import builder, folder, manifest
from chatlm_rag.index.embedding import DEFAULT_EMBEDDER

NAME = "manual"
ROOT = Path(__file__).parents[1]
PAGES = (
    "coming-from-ollama.md",
    "design.md",
    "glossary.md",
    "guide.md",
    "model-names.md",
    "plugins.md",
    "scaling.md",
)
"""Not api.md, whose many short entries would hide the answers to users' questions."""

SOURCES = (Source("README.md"), Source("docs", PAGES))
"""Relative, so that the index reveals nothing of the machine that built it."""


READABLE = 0o644


class Quiet:
    """Nobody watches."""

    cancelled = False

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say nothing."""


def make(target: Path) -> None:
    """Build the index and replace the folder's contents."""
    ensure_model(DEFAULT_EMBEDDER, ignore_progress)
    models = data_dir() / "models"
    with TemporaryDirectory() as home:
        Path(home, "models").symlink_to(models)
        os.environ["CHATLM_HOME"] = home
        os.chdir(ROOT)
        done = builder.build(NAME, SOURCES, Quiet())
        made = folder.user_index(NAME).path
        files = tuple(replace(file, stamp=None) for file in done.manifest.files)
        manifest.write(made / "1", replace(done.manifest, files=files, scanned_ns=0))
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)
    for path in target.rglob("*.json"):
        path.chmod(READABLE)
    (target / CURRENT_FILE).chmod(READABLE)


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute() if sys.argv[1:] else ROOT / "indices" / NAME)
