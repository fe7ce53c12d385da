"""Word vectors on disk, each a folder with its words and its card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from chatlm import Artifact, Artifacts, ChatlmError, data_dir, dump_json, one_line
from chatlm_lab.word_vectors import WordVectors

VECTORS_FILE, WORDS_FILE, CARD_FILE = "vectors.safetensors", "words.json", "card.json"


class VectorFolders(Artifacts):
    """All word vectors, which are the user's own."""

    @property
    def user_root(self) -> Path:
        """The folder of the word vectors; it may not exist."""
        return data_dir() / "lab-vectors"


VECTORS = VectorFolders("word vector file", "chatlm lab vectors", Path(__file__).parent / "vectors")


@dataclass(frozen=True)
class StoredVectors:
    """Word vectors with their card."""

    vectors: WordVectors
    card: dict[str, Any]
    """Settings, data, losses and cost."""


def save_vectors(place: Artifact, vectors: WordVectors, card: dict[str, Any]) -> None:
    """Save word vectors.

    Raises:
        ChatlmError: the disk is full.
    """
    with VECTORS.create(place) as folder:
        save_file({"vectors": vectors.vectors}, folder / VECTORS_FILE)
        (folder / WORDS_FILE).write_text(dump_json(list(vectors.words)), encoding="utf-8")
        (folder / CARD_FILE).write_text(dump_json(card) + "\n", encoding="utf-8")


def load_vectors(name: str) -> StoredVectors:
    """Load word vectors.

    Raises:
        UsageError: there are none of this name.
        ChatlmError: they are damaged.
    """
    place = VECTORS.get(name)
    place.check()
    try:
        words = json.loads((place.path / WORDS_FILE).read_bytes())
        card = json.loads((place.path / CARD_FILE).read_bytes())
        if not (isinstance(card, dict) and all(isinstance(word, str) for word in words)):
            raise ValueError("wrong values")
        vectors = load_file(place.path / VECTORS_FILE)["vectors"]
        return StoredVectors(WordVectors(words, vectors), card)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ChatlmError(
            f"The word vectors {one_line(name, 80)} cannot be read: {one_line(str(error), 100)}.",
            hint=f"Remove them, and train them again: chatlm lab vectors remove {name}",
        ) from error
