"""Small texts and lab models for the tests of the plugin lab."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from chatlm.plugin_kit.training import ProgressListener
from chatlm_lab.architectures import TrainingJob, find_architecture
from chatlm_lab.models import LabCard
from chatlm_lab.network_architecture import NetworkArchitecture, train_network
from chatlm_lab.network_recipe import NetworkRecipe
from chatlm_lab.ngram_architecture import NgramRecipe, train_ngram

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
    job = TrainingJob(name, (path,))
    return train_ngram(job, settings, lambda *progress: None, lambda: False)


TINY_NETWORK = {
    "tokenizer": "characters",
    "width": 16,
    "layers": 2,
    "context": 16,
    "batch_size": 16,
    "epochs": 2.0,
}


def network_recipe(architecture: str, **settings: object) -> NetworkRecipe:
    """Return a recipe that trains in a second."""
    heads = {"heads": 2} if architecture in ("decoder", "llama") else {}
    recipe = find_architecture(architecture).make_recipe({**TINY_NETWORK, **heads, **settings})
    assert isinstance(recipe, NetworkRecipe)
    return recipe


def trained_network(
    folder: Path,
    architecture: str,
    name: str = "tiny",
    *,
    listener: ProgressListener | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    finish: bool = False,
    **settings: object,
) -> LabCard:
    """Train a small network in the current home."""
    found = find_architecture(architecture)
    assert isinstance(found, NetworkArchitecture)
    job = TrainingJob(name, (write_story(folder),), finish=finish)
    recipe = network_recipe(architecture, **settings)
    return train_network(found, job, recipe, listener or ProgressListener(), should_stop)
