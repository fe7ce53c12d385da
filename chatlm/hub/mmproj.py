"""The vision encoder of a GGUF model, an mmproj file: found beside it, and kept in its folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf_choices import quantization_of
from chatlm.hub.weights import MMPROJ_FILE
from chatlm.types.runtimes import Mmproj

_NAME = re.compile(r"mmproj.*\.gguf$", re.IGNORECASE)

_PREFERRED = ("F16", "BF16", "F32", "Q8_0")
"""Formats in the order in which they are taken: encoders are small, and made for 16 bits."""


def read_mmproj(folder: Path) -> Mmproj | None:
    """Return the mmproj file of a model's folder; None if it has none."""
    path = folder / MMPROJ_FILE
    if not path.is_file():
        return None
    with GgufFile(path) as file:
        return Mmproj(path, _projector(file))


def find_mmproj(model: Path) -> Path | None:
    """Return the mmproj file beside a GGUF file that is its own: its encoder has the model's width.

    Args:
        model: the file, or the first part of a split one.
    """
    try:
        with GgufFile(model) as file:
            width = file.get(f"{file.architecture}.embedding_length")
    except GgufError:
        return None
    fitting = []
    for name in choose_order(path.name for path in model.parent.glob("*.gguf")):
        try:
            with GgufFile(model.parent / name) as file:
                if file.get("clip.vision.projection_dim") == width:
                    fitting.append(model.parent / name)
        except GgufError:
            continue
    return fitting[0] if fitting else None


def choose_order(names: Iterable[str]) -> list[str]:
    """Return the names of mmproj files among others, the preferred one first.

    Args:
        names: of files, or their paths in a repository.
    """

    def rank(name: str) -> tuple[int, str]:
        kind = quantization_of(name)
        return (_PREFERRED.index(kind) if kind in _PREFERRED else len(_PREFERRED), name)

    return sorted((name for name in names if _NAME.search(PurePosixPath(name).name)), key=rank)


def _projector(file: GgufFile) -> str:
    found = file.get("clip.vision.projector_type") or file.get("clip.projector_type")
    return found if isinstance(found, str) else ""
