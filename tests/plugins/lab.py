"""Small texts and lab models for the tests of the plugin lab."""

from __future__ import annotations

import random
from pathlib import Path

from chatlm_lab.models import LabCard
from chatlm_lab.training import NgramRecipe, train_ngram

SENTENCE = "the cat sat on a mat while rain fell and dogs slept near old doors in green towns"

WORDS = SENTENCE.split()


def story(lines: int, seed: int = 0) -> str:
    """Return lines of about eight words, in which words follow each other in habitual ways."""
    draw = random.Random(seed)
    text = []
    for _ in range(lines):
        place, line = draw.randrange(len(WORDS)), []
        for _ in range(8):
            line.append(WORDS[place])
            place = (place * 5 + draw.choice((1, 1, 1, 2, 7))) % len(WORDS)
        text.append(" ".join(line).capitalize() + ".")
    return "\n".join(text) + "\n"


def write_story(folder: Path, lines: int = 200) -> Path:
    """Write a story to a file and return its path."""
    path = folder / "story.txt"
    path.write_text(story(lines), encoding="utf-8")
    return path


def trained(folder: Path, name: str = "tiny", **recipe: object) -> LabCard:
    """Train a small model in the current home."""
    settings = NgramRecipe(**{"tokenizer": "characters", **recipe})  # type: ignore[arg-type]
    path = write_story(folder)
    return train_ngram(name, [path], settings, lambda *progress: None, lambda: False)
