"""Hybrid search, fusion, duplicates, reranking.

Each score is divided by the best of its kind, then both are added: the "TM2C2" of Bruch, Gai and
Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2023). Reciprocal rank fusion, which
forgets how sure each side is, found less on both collections of `benchmarks.retrieval`.

It is slow, and used only when the person names one in the settings. It knows no index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, cast

from chatlm import ChatlmError, UsageError, load_plugin_settings
from chatlm_rag.index import bm25, embedding, manifest, vectors
from chatlm_rag.index.chunks import ChunkReader
from chatlm_rag.index.embedding import Embedder, load_quietly, replace_surrogates
from chatlm_rag.index.folder import IndexFolder, find_index, wrap_read_errors
from chatlm_rag.index.manifest import Manifest
from chatlm_rag.retrieval import relevance
from chatlm_rag.retrieval.hits import RankedScore, SearchHit
from chatlm_rag.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import CrossEncoder


CANDIDATE_DEPTH = 200
"""How many of the best by each kind are candidates. A piece that is so far down in both is never
among the first ten of the fused ranking."""


@dataclass(frozen=True)
class Candidates:
    """What a query may find: arrays of the same length, by falling fused score."""

    ids: NDArray[np.int64]
    fused: NDArray[np.float32]
    dense: NDArray[np.float32]
    lexical: NDArray[np.float32]


class Index:
    """An index open for reading; safe to use in several threads.

    It stays as it is when another process brings the index up to date.

    Args:
        chunks: of the index.
        vector_index: its vectors.
        bm25_index: its words.
        embedder: what the vectors were made with.
    """

    def __init__(
        self,
        name: str,
        chunks: ChunkReader,
        vector_index: vectors.VectorIndex,
        bm25_index: bm25.BM25Index,
        embedder: Embedder,
    ) -> None:
        self.name = name
        self.chunks = chunks
        self.embedder = embedder
        self._vector_index = vector_index
        self._bm25_index = bm25_index

    @classmethod
    def open(cls, index_folder: IndexFolder) -> Index:
        """Open an index; its embedder is loaded by the first search.

        Raises:
            UsageError: it is not finished.
            ChatlmError: it is damaged, or its embedder is not here or is another one now.
        """

        def opener(at: Path) -> Index:
            made = manifest.read(at)
            embedder = _shared_embedder(
                embedding.find_index_embedder(index_folder.name, made.embedder).folder
            )
            pieces, nearest, words = ChunkReader(at), vectors.load(at), bm25.load(at)
            if {len(pieces), len(nearest), len(words)} != {made.chunk_count}:
                raise ValueError("its files have not the same number of passages")
            return cls(index_folder.name, pieces, nearest, words, embedder)

        with wrap_read_errors(index_folder.name):
            return index_folder.open(opener)

    def search(self, query: str, k: int = 8, reranker: Reranker | None = None) -> list[SearchHit]:
        """The pieces that fit a query best, best first; of pieces that say the same, the best.

        Args:
            query: a question, or some words.
            k: at most so many.
            reranker: puts the first in a better order; None leaves them as they are.

        Raises:
            ChatlmError: the embedder or the reranker cannot be loaded.
        """
        found = self._hits(self.candidates(query))
        if reranker:
            found = _rerank(query, list(islice(found, MAX_RERANKED)), reranker)
        return _merge_duplicates(found, k)

    def confidence(self, query: str, hits: Sequence[SearchHit]) -> float:
        """How sure it is that what a search found has to do with the query, about 0 to 1.

        Below `abstaining.THRESHOLD` nothing relevant was found.
        """
        with wrap_read_errors(self.name):
            return relevance.confidence(query, hits, self._bm25_index.idf)

    def answer_scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """How well each text answers a query, about 0 to 1: the mean of its cosine with the query
        and of how much of the query's words stands in it, rare ones counting more.

        Raises:
            ChatlmError: the embedder cannot be loaded.
        """
        import numpy as np

        cosines = self.embedder.embed(texts) @ self.embedder.embed_query(query)
        with wrap_read_errors(self.name):
            asked = {stem: self._bm25_index.idf(stem) for stem in bm25.stems(query)}
        there = (set(bm25.stems(text)) for text in texts)
        covered = np.array([sum(asked[stem] for stem in asked.keys() & each) for each in there])
        fits = (cosines + covered / (sum(asked.values()) or 1)) / 2
        return fits.astype(np.float32)

    def candidates(self, query: str, depth: int = CANDIDATE_DEPTH) -> Candidates:
        """The best by each kind, with the scores of both kinds; see `search`."""
        import numpy as np

        vector = self.embedder.embed_query(query)
        with wrap_read_errors(self.name):
            near, _ = self._vector_index.search(vector, depth)
            scores = self._bm25_index.scores(query)
            depth = min(depth, len(scores))
            worded = np.argpartition(-scores, depth - 1)[:depth]
            ids = np.union1d(near, worded[scores[worded] > 0])
            dense, by_words = self._vector_index.cosines(vector, ids), scores[ids]
        fused = fuse(dense, by_words)
        order = np.argsort(-fused, kind="stable")
        return Candidates(ids[order], fused[order], dense[order], by_words[order])

    def _hits(self, candidates: Candidates) -> Iterator[SearchHit]:
        """The candidates in their order; a piece is read when it is reached."""
        dense, by_words = _ranks(candidates.dense), _ranks(candidates.lexical)
        for place, number in enumerate(candidates.ids):
            yield SearchHit(
                chunk=self.chunks[int(number)],
                score=float(candidates.fused[place]),
                dense=RankedScore(float(candidates.dense[place]), int(dense[place])),
                lexical=RankedScore(float(candidates.lexical[place]), int(by_words[place])),
            )


def _merge_duplicates(hits: Iterable[SearchHit], k: int) -> list[SearchHit]:
    """The first k that say something new, each with the others that say the same."""
    kept: list[tuple[Shingles, SearchHit]] = []
    for each in hits:
        wording = Shingles(each.chunk.text)
        for place, (other, first) in enumerate(kept):
            if other.is_near_duplicate(wording):
                kept[place] = (other, replace(first, duplicates=(*first.duplicates, each.chunk)))
                break
        else:
            if len(kept) == k:
                break
            kept.append((wording, each))
    return [each for _, each in kept]


def _rerank(query: str, hits: list[SearchHit], reranker: Reranker) -> Iterator[SearchHit]:
    scores = reranker.scores(query, [each.chunk.indexed_text for each in hits])
    for place in (-scores).argsort(kind="stable"):
        yield replace(hits[place], rerank_score=float(scores[place]))


@cache
def _shared_embedder(folder: Path) -> Embedder:
    """One for all indices that are made with it: it is large."""
    return Embedder(folder)


def _ranks(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    import numpy as np

    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


DENSE_WEIGHT = 0.8
"""How much of a fused score is the vectors'; the rest is the words'. It is large since cosines of
good and bad pieces are nearer to each other than BM25 scores; 0.7 to 0.9 are about as good."""


def fuse(dense: NDArray[np.float32], lexical: NDArray[np.float32]) -> NDArray[np.float32]:
    """The fused score of each candidate, 0 to 1; 1 for one that is the best of both kinds.

    Args:
        dense: cosines with the query, -1 to 1. The best candidate of all has to be among them.
        lexical: BM25 scores of the same candidates, 0 or more; the best of all among them too.
    """
    if not len(dense):
        return dense
    by_vector = (dense + 1) / max(float(dense.max()) + 1, 1e-6)
    by_words = lexical / max(float(lexical.max()), 1e-6)
    return cast("NDArray[np.float32]", DENSE_WEIGHT * by_vector + (1 - DENSE_WEIGHT) * by_words)


DUPLICATE_OVERLAP = 0.9
"""Two texts say the same when they share this part of all their runs of words."""


_SHINGLE_WORDS = 3


class Shingles:
    """The words of a text, to be compared with others."""

    def __init__(self, text: str) -> None:
        words = text.casefold().split()
        self._numbers = {word for word in words if any(map(str.isdigit, word))}
        self._shingles = {
            tuple(words[begin : begin + _SHINGLE_WORDS])
            for begin in range(max(len(words) - _SHINGLE_WORDS + 1, 1))
        }

    def is_near_duplicate(self, other: Shingles) -> bool:
        """Whether both have nearly the same words, and the same numbers."""
        if self._numbers != other._numbers:
            return False
        return len(self._shingles & other._shingles) >= DUPLICATE_OVERLAP * len(
            self._shingles | other._shingles
        )


MAX_RERANKED = 50
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
                self._loaded = _load_cross_encoder(self._folder)
            pairs = [(replace_surrogates(query), text) for text in texts]
            scores = self._loaded.predict(pairs, show_progress_bar=False)
        return cast("NDArray[np.float32]", scores)


def configured_reranker() -> Reranker | None:
    """The one that the person's settings name, if they do."""
    folder = load_plugin_settings("rag", Settings).reranker
    return _shared_reranker(folder) if folder else None


@cache
def _shared_reranker(folder: Path) -> Reranker:
    return Reranker(folder)


def _load_cross_encoder(folder: Path) -> CrossEncoder:
    hint = "The setting reranker of the plugin rag names its folder; without it none is used."
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} holds no cross-encoder.", hint=hint)
    with load_quietly(f"The cross-encoder in {folder} cannot be loaded", hint):
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


log = logging.getLogger("chatlm.plugins.rag")


@dataclass(frozen=True, eq=False)
class OpenIndex:
    """An index with what is said of its files."""

    index_folder: IndexFolder
    version_folder: Path | None
    """The one that counted when it was opened."""
    index: Index
    manifest: Manifest


_open_indices: dict[str, OpenIndex] = {}


_open_lock = Lock()


def get_open_index(name: str) -> OpenIndex:
    """The index of a name.

    Raises:
        ChatlmError: there is none, or it cannot be opened; see `Index.open`.
    """
    place = find_index(name)
    with _open_lock:
        while name not in _open_indices or _open_indices[name].version_folder != place.current():
            folder = place.current()
            _open_indices[name] = OpenIndex(
                place, folder, Index.open(place), place.open(manifest.read)
            )
        return _open_indices[name]


def preload(name: str) -> None:
    """Open an index and load its embedder, so that the next question need not wait.

    Raises:
        ChatlmError: see `opened`, or the embedder cannot be loaded.
    """
    get_open_index(name).index.search("", 1)


def preload_in_background(name: str) -> None:
    """Do that in a thread; what is wrong with the index the first question will say."""
    Thread(target=_try_preload, args=(name,), name="chatlm-rag-warm", daemon=True).start()


def _try_preload(name: str) -> None:
    try:
        preload(name)
    except ChatlmError as error:
        log.info("index %s is not ready: %s", name, error)
