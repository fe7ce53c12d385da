"""Find messages and replies of saved chats by their meaning.

Each text is divided into parts that the embedder reads whole. Their vectors are stored beside the
chats, for new and changed texts whenever somebody searches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from chatlm.errors import Cancelled
from chatlm.plugin_host.host import PluginHost
from chatlm.store.search import ChatSearchHit
from chatlm.store.store import Store
from chatlm.store.vectors import TextVector
from chatlm.types.services import TextEmbedder, require_service

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PART_CHARACTERS = 800
"""Maximum length of a part: about 200 tokens, which every embedder reads."""

BATCH_TEXTS = 64
"""Texts that are embedded and stored at a time; a stop loses no more."""

LEAST_COSINE = 0.25
"""Texts less similar to the query are not found; that of unrelated sentences is about 0.1."""

Progress = Callable[[int, int], None]
"""Called with the number of texts that have vectors now, and that of all that had none."""


def find_embedder(plugins: PluginHost) -> TextEmbedder:
    """Return the embedder that a plugin offers.

    Raises:
        UsageError: no plugin offers one.
    """
    return require_service("embedder", plugins.service("embedder"), TextEmbedder)


def search_by_meaning(
    store: Store,
    embedder: TextEmbedder,
    query: str,
    limit: int = 20,
    *,
    progress: Progress = lambda done, total: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> list[ChatSearchHit]:
    """Return the messages and replies that are most similar to a query, the most similar first.

    Args:
        store: of saved chats.
        embedder: maps texts to vectors.
        query: any text.
        limit: maximum number of hits.
        progress: called while new texts are embedded.
        is_cancelled: asked between two batches of texts.

    Raises:
        Cancelled: `is_cancelled` returned True; what was embedded stays.
        StoreError: the chats cannot be read or written.
        ChatlmError: the embedding model is not on this machine or cannot be loaded.
    """
    if not any(map(str.isalnum, query)):
        return []
    fingerprint = embedder.fingerprint()
    if store.unwritable is None:
        _embed_missing(store, embedder, fingerprint, progress, is_cancelled)
    import numpy as np

    ids, vectors = store.vectors.load(fingerprint)
    if not ids:
        return []
    wanted = _embed(embedder, [query])[0]
    matrix = np.frombuffer(b"".join(vectors), np.float16).reshape(len(ids), -1)
    cosines = matrix.astype(np.float32) @ wanted
    order = (-cosines).argsort(kind="stable")
    return store.vectors.hits([ids[at] for at in order if cosines[at] >= LEAST_COSINE], limit)


def _embed_missing(
    store: Store,
    embedder: TextEmbedder,
    fingerprint: str,
    progress: Progress,
    is_cancelled: Callable[[], bool],
) -> None:
    """Store the vectors of texts that have none, the newest first."""
    import numpy as np

    done = 0
    tried: set[tuple[int, int | None]] = set()
    while True:
        texts, left = store.vectors.missing(fingerprint, BATCH_TEXTS)
        if tried.issuperset((each.turn_id, each.reply_id) for each in texts):
            return  # none is left, or they are being written while they are read
        if is_cancelled():
            raise Cancelled("The search was stopped.")
        progress(done, done + left)
        tried.update((each.turn_id, each.reply_id) for each in texts)
        parts = [(each, start, part) for each in texts for start, part in split_text(each.text)]
        vectors = _embed(embedder, [part for _, _, part in parts]) if parts else ()
        rows = [
            TextVector(text.turn_id, text.reply_id, start, vector.astype(np.float16).tobytes())
            for (text, start, _), vector in zip(parts, vectors, strict=True)
        ]
        rows += [
            TextVector(each.turn_id, each.reply_id, 0, b"")
            for each in texts
            if not any(part[0] is each for part in parts)
        ]
        store.vectors.add(fingerprint, texts, rows)
        done += len(texts)
        progress(done, done + left - len(texts))


def _embed(embedder: TextEmbedder, texts: list[str]) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = embedder.embed(texts, lambda done, total: None)
    return vectors


def split_text(text: str) -> Iterator[tuple[int, str]]:
    """Yield the parts of a text with their starts, each at most `PART_CHARACTERS` long.

    A part ends at a paragraph, a line, a sentence or a blank of its second half if it can.
    """
    start = 0
    while start < len(text):
        end = start + PART_CHARACTERS
        if end < len(text):
            middle = start + PART_CHARACTERS // 2
            breaks = (text.rfind(mark, middle, end) for mark in ("\n\n", "\n", ". ", "。", " "))
            end = next((at + 1 for at in breaks if at >= 0), end)
        part = text[start:end]
        if part.strip():
            yield start + len(part) - len(part.lstrip()), part.strip()
        start = end
