"""Hybrid search: dense and lexical retrieval, score fusion, deduplication and reranking.

The fused score is the sum of both scores, each standardized over the candidates of the query, as in
Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2023). So it does not
matter in which range the cosines of an embedder lie: those of E5 are between 0.7 and 0.9.
Reciprocal rank fusion, which discards how far scores are apart, did worse. Reranking is slow, and
used only if the settings name a cross-encoder.
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

from chatlm import ChatlmError, UsageError, find_model, load_plugin_settings
from chatlm_rag.documents.document import replace_surrogates
from chatlm_rag.index import bm25, checksums, embedding, manifest, vectors
from chatlm_rag.index.chunks import ChunkReader
from chatlm_rag.index.embedding import Embedder, EmbedderRecord, load_quietly
from chatlm_rag.index.folder import IndexFolder, find_index, wrap_read_errors
from chatlm_rag.index.manifest import Manifest
from chatlm_rag.reading.reader import Reading, reading_title, shared_reader
from chatlm_rag.retrieval import relevance
from chatlm_rag.retrieval.hits import RankedScore, SearchHit
from chatlm_rag.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import CrossEncoder


CANDIDATE_DEPTH = 1000
"""Candidates from each ranking: enough that their mean and spread are those of most chunks, and for
100 documents of several chunks."""


@dataclass(frozen=True)
class Candidates:
    """The candidates of a query: arrays of equal length, in descending order of the fused score."""

    ids: NDArray[np.int64]
    fused: NDArray[np.float32]
    dense: NDArray[np.float32]
    lexical: NDArray[np.float32]


class Index:
    """An index open for searching; thread-safe.

    It keeps the version it was opened with when another process updates the index.

    Args:
        name: of the index.
        chunks: its chunks.
        vector_index: for dense retrieval.
        bm25_index: for lexical retrieval.
        embedder: the model that computed the vectors.
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
            UsageError: its first build is not complete.
            ChatlmError: it is damaged, or its embedder is missing or has other weights.
        """

        def opener(folder: Path) -> Index:
            index_manifest = manifest.read(folder)
            checksums.check(folder)
            local = embedding.find_index_embedder(index_folder.name, index_manifest.embedder)
            embedder = _shared_embedder(local.folder, local.record)
            chunks = ChunkReader(folder)
            vector_index, bm25_index = vectors.load(folder), bm25.load(folder)
            if {len(chunks), len(vector_index), len(bm25_index)} != {index_manifest.chunk_count}:
                raise ValueError("its files differ in their number of passages")
            return cls(index_folder.name, chunks, vector_index, bm25_index, embedder)

        with wrap_read_errors(index_folder.name):
            return index_folder.open(opener)

    def search(self, query: str, k: int = 8, reranker: Reranker | None = None) -> list[SearchHit]:
        """Return the chunks that match a query best, best first, without near-duplicates.

        Args:
            query: a question or keywords.
            k: maximum number of hits.
            reranker: reorders the best hits; None keeps the fused order.

        Raises:
            ChatlmError: the embedder or the reranker cannot be loaded.
        """
        hits = self._hits(self.candidates(query))
        if reranker:
            hits = _rerank(query, list(islice(hits, MAX_RERANKED)), reranker)
        return _merge_duplicates(hits, k)

    def read(self, query: str, hits: Sequence[SearchHit]) -> list[Reading]:
        """Return how well the statements of the best hits answer a query.

        Raises:
            ChatlmError: the reader cannot be loaded.
        """
        passages = [(reading_title(hit.chunk.place), hit.chunk.shown_text) for hit in hits]
        return shared_reader().read(query, passages[: relevance.READ_HITS])

    def evidence(self, query: str, hits: Sequence[SearchHit]) -> relevance.Evidence | None:
        """Return the evidence that search hits answer a query; None if they have no statement.

        Raises:
            ChatlmError: the reader cannot be loaded.
        """
        readings = self.read(query, hits)
        with wrap_read_errors(self.name):
            return relevance.gather(query, hits, readings, self._bm25_index.idf)

    def confidence(self, query: str, hits: Sequence[SearchHit]) -> float:
        """Return the confidence that search hits answer the query, 0 to 1.

        Raises:
            ChatlmError: the reader cannot be loaded.
        """
        return relevance.confidence(self.evidence(query, hits))

    def idf(self, stem: str) -> float:
        """Return the inverse document frequency of a stem, above 0."""
        with wrap_read_errors(self.name):
            return self._bm25_index.idf(stem)

    def candidates(self, query: str, depth: int = CANDIDATE_DEPTH) -> Candidates:
        """Return the union of the best chunks of both rankings, with both scores of each.

        Args:
            query: a question or keywords.
            depth: number of chunks from each ranking.

        Raises:
            ChatlmError: the embedder cannot be loaded.
        """
        import numpy as np

        vector = self.embedder.embed_query(query)
        with wrap_read_errors(self.name):
            dense_ids, _ = self._vector_index.search(vector, depth)
            scores = self._bm25_index.scores(query)
            depth = min(depth, len(scores))
            lexical_ids = np.argpartition(-scores, depth - 1)[:depth]
            ids = np.union1d(dense_ids, lexical_ids[scores[lexical_ids] > 0])
            dense, lexical = self._vector_index.cosines(vector, ids), scores[ids]
        fused = fuse(dense, lexical)
        order = np.argsort(-fused, kind="stable")
        return Candidates(ids[order], fused[order], dense[order], lexical[order])

    def _hits(self, candidates: Candidates) -> Iterator[SearchHit]:
        """Yield the candidates in order, reading each chunk only when it is reached."""
        dense_ranks, lexical_ranks = _ranks(candidates.dense), _ranks(candidates.lexical)
        for at, chunk_id in enumerate(candidates.ids):
            yield SearchHit(
                chunk=self.chunks[int(chunk_id)],
                score=float(candidates.fused[at]),
                dense=RankedScore(float(candidates.dense[at]), int(dense_ranks[at])),
                lexical=RankedScore(float(candidates.lexical[at]), int(lexical_ranks[at])),
            )


def _merge_duplicates(hits: Iterable[SearchHit], k: int) -> list[SearchHit]:
    """Return the first k distinct hits, each with its near-duplicates."""
    distinct: list[tuple[Shingles, SearchHit]] = []
    for hit in hits:
        shingles = Shingles(hit.chunk.text)
        for at, (other, first) in enumerate(distinct):
            if other.is_near_duplicate(shingles):
                distinct[at] = (other, replace(first, duplicates=(*first.duplicates, hit.chunk)))
                break
        else:
            if len(distinct) == k:
                break
            distinct.append((shingles, hit))
    return [hit for _, hit in distinct]


def _rerank(query: str, hits: list[SearchHit], reranker: Reranker) -> Iterator[SearchHit]:
    scores = reranker.scores(query, [hit.chunk.indexed_text for hit in hits])
    for at in (-scores).argsort(kind="stable"):
        yield replace(hits[int(at)], rerank_score=float(scores[at]))


@cache
def _shared_embedder(folder: Path, record: EmbedderRecord) -> Embedder:
    """Return one embedder for all indices that use it, since it is large."""
    return Embedder(folder, record)


def _ranks(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    import numpy as np

    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


DENSE_WEIGHT = 0.55
"""Weight of the standardized cosine in a fused score; that of BM25 has the rest."""


def fuse(dense: NDArray[np.float32], lexical: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the fused score of each candidate, 0 to 1: 1 for the best of both rankings, a half for
    an average candidate.

    Args:
        dense: cosines with the query, -1 to 1. They must include the best of the index.
        lexical: BM25 scores of the same candidates, 0 or more, including the best of the index.
    """
    import numpy as np

    if not len(dense):
        return dense
    kinds = ((DENSE_WEIGHT, _standardize(dense)), (1 - DENSE_WEIGHT, _standardize(lexical)))
    best = sum(weight * float(scores.max()) for weight, scores in kinds)
    if best < 1e-6:  # all are alike
        return np.ones_like(dense)
    combined = sum(weight * scores for weight, scores in kinds)
    return cast("NDArray[np.float32]", np.clip(0.5 + combined / (2 * best), 0, 1))


def _standardize(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how many standard deviations each score is above the mean; 0 if all are alike."""
    import numpy as np

    spread = float(scores.std())
    if spread < 1e-6:
        return np.zeros_like(scores)
    return cast("NDArray[np.float32]", (scores - scores.mean()) / spread)


DUPLICATE_OVERLAP = 0.9
"""Jaccard similarity of shingles from which two texts are near-duplicates."""


_SHINGLE_WORDS = 3


class Shingles:
    """The word shingles of a text, for finding near-duplicates."""

    def __init__(self, text: str) -> None:
        words = text.casefold().split()
        self._numbers = {word for word in words if any(map(str.isdigit, word))}
        self._shingles = {
            tuple(words[start : start + _SHINGLE_WORDS])
            for start in range(max(len(words) - _SHINGLE_WORDS + 1, 1))
        }

    def is_near_duplicate(self, other: Shingles) -> bool:
        """Return whether both texts have the same numbers and nearly the same words."""
        if self._numbers != other._numbers:
            return False
        return len(self._shingles & other._shingles) >= DUPLICATE_OVERLAP * len(
            self._shingles | other._shingles
        )


MAX_RERANKED = 50
"""Hits that the cross-encoder scores."""


class Reranker:
    """A cross-encoder, loaded on first use; thread-safe.

    Args:
        folder: a sentence-transformers cross-encoder with one output and safetensors weights.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._loaded: CrossEncoder | None = None

    def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """Score how well each text answers the query; only the order is meaningful.

        Raises:
            ChatlmError: the model cannot be loaded, or has several outputs.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = _load_cross_encoder(self._folder)
            pairs = [(replace_surrogates(query), text) for text in texts]
            scores = self._loaded.predict(pairs, show_progress_bar=False)
        return cast("NDArray[np.float32]", scores)


def configured_reranker() -> Reranker | None:
    """Return the reranker from the settings; None if there is none.

    Raises:
        ChatlmError: it is not on this machine, or it is no reranker.
    """
    name = load_plugin_settings("rag", Settings).reranker
    return _shared_reranker(_find_reranker(name)) if name else None


def _find_reranker(name: str) -> Path:
    location = find_model(name)
    if location.kind != "reranker":
        raise UsageError(
            f"{name} is not a reranker: a cross-encoder that gives one score.",
            hint="Choose one, such as ms-marco-minilm-l6-v2, as plugins.rag.reranker, or unset it.",
        )
    return location.folder


@cache
def _shared_reranker(folder: Path) -> Reranker:
    return Reranker(folder)


def _load_cross_encoder(folder: Path) -> CrossEncoder:
    hint = "plugins.rag.reranker names the cross-encoder; unset it to use none."
    with load_quietly(f"The cross-encoder in {folder} cannot be loaded", hint):
        from sentence_transformers import CrossEncoder

        model: CrossEncoder = CrossEncoder(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    if model.num_labels != 1:
        raise UsageError(f"{folder} returns {model.num_labels} scores, not one.", hint=hint)
    return model


log = logging.getLogger("chatlm.plugins.rag")


@dataclass(frozen=True, eq=False)
class OpenIndex:
    """An open index with its manifest."""

    index_folder: IndexFolder
    version_folder: Path | None
    """The current version when the index was opened."""
    index: Index
    manifest: Manifest


_open_indices: dict[str, OpenIndex] = {}


_open_lock = Lock()


def get_open_index(name: str) -> OpenIndex:
    """Return the current version of an index, which stays open for later calls.

    Raises:
        ChatlmError: there is no such index, or it cannot be opened; see `Index.open`.
    """
    folder = find_index(name)
    with _open_lock:
        while name not in _open_indices or _open_indices[name].version_folder != folder.current():
            version = folder.current()
            _open_indices[name] = OpenIndex(
                folder, version, Index.open(folder), folder.open(manifest.read)
            )
        return _open_indices[name]


def preload(name: str) -> None:
    """Open an index and load its models, so that the next search starts at once.

    Raises:
        ChatlmError: the index cannot be opened, or one of the models cannot be loaded.
    """
    index = get_open_index(name).index
    index.confidence("", index.search("", 1, configured_reranker()))


def preload_in_background(name: str) -> None:
    """Preload an index in a thread; an error is reported by the first search instead."""
    Thread(target=_try_preload, args=(name,), name="chatlm-rag-warm", daemon=True).start()


def _try_preload(name: str) -> None:
    try:
        preload(name)
    except ChatlmError as error:
        log.info("index %s is not ready: %s", name, error)
