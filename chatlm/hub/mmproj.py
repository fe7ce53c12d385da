"""The vision encoder of a GGUF model, an mmproj file: found beside it, and kept in its folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from chatlm.hub.disk import link_or_copy
from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf_choices import quantization_of
from chatlm.hub.weights import MMPROJ_FILE
from chatlm.types.runtimes import Mmproj

log = logging.getLogger(__name__)

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


def mmproj_hint(folder: Path, has_runtime: bool) -> str:
    """Return what to do so that the model of a folder reads images; empty without an mmproj file.

    Args:
        folder: of the model.
        has_runtime: whether llama.cpp is installed.
    """
    if not (folder / MMPROJ_FILE).is_file():
        return ""
    install = "" if has_runtime else "`pip install 'chatlm[llamacpp]'` and "
    return (
        "llama.cpp reads images with this model's mmproj file: "
        f"{install}`chatlm config set engine llamacpp`."
    )


def place_mmproj(model: Path, folders: Iterable[Path], folder: Path) -> None:
    """Put the mmproj file of a GGUF file into its model's folder, if there is one.

    It is its own if its encoder has the model's width; others, and damaged ones, are left alone.

    Args:
        model: the file, or the first part of a split one.
        folders: where it may be.
        folder: of the model.
    """
    names = {path.name: path for each in folders for path in each.glob("*.gguf")}
    candidates = [names[name] for name in choose_order(names)]
    if not candidates:
        return
    with GgufFile(model) as file:
        width = file.get(f"{file.architecture}.embedding_length")
    for path in candidates:
        try:
            with GgufFile(path) as file:
                fits = file.get("clip.vision.projection_dim") == width
        except GgufError as error:
            log.info("%s is left alone: %s", path, error)
            continue
        if fits:
            link_or_copy(path, folder / MMPROJ_FILE)
            return


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
