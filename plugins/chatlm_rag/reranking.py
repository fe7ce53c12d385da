"""Puts found pieces in a better order with a cross-encoder, which reads query and piece together.

It is slow, and used only when the person names one in the settings. It knows no index.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, cast

from chatlm import UsageError, own_settings
from chatlm_rag.embedding import loading, writable
from chatlm_rag.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import CrossEncoder

MOST = 50
"""How many of the best are put in order."""


class Reranker:
    """A cross-encoder, loaded when it is first needed; safe to use in several threads.

    Args:
        folder: of a sentence-transformers cross-encoder with one score, its weights as safetensors.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._loaded: CrossEncoder | None = None

    def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """How well each text answers the query; only the order says something.

        Raises:
            UsageError: it cannot be loaded, or has several scores.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._folder)
            pairs = [(writable(query), text) for text in texts]
            scores = self._loaded.predict(pairs, show_progress_bar=False)
        return cast("NDArray[np.float32]", scores)


def configured() -> Reranker | None:
    """The one that the person's settings name, if they do."""
    folder = own_settings("rag", Settings).reranker
    return _reranker(folder) if folder else None


@cache
def _reranker(folder: Path) -> Reranker:
    return Reranker(folder)


def _load(folder: Path) -> CrossEncoder:
    hint = "The setting reranker of the plugin rag names its folder; without it none is used."
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} holds no cross-encoder.", hint=hint)
    with loading(f"The cross-encoder in {folder} cannot be loaded", hint):
        from sentence_transformers import CrossEncoder

        model: CrossEncoder = CrossEncoder(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    if model.num_labels != 1:
        raise UsageError(f"{folder} gives {model.num_labels} scores, not one.", hint=hint)
    return model
