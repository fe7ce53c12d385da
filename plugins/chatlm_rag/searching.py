"""Searches one index: by meaning, by words, and both made one; knows no command and no screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm_rag import abstaining, embedders, lexical, manifest, vectors
from chatlm_rag.duplicates import Wording
from chatlm_rag.embedding import Embedder
from chatlm_rag.folder import IndexFolder, reading
from chatlm_rag.fusion import fuse
from chatlm_rag.passages import Passages, Piece
from chatlm_rag.reranking import MOST, Reranker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEPTH = 200
"""How many of the best by each kind are candidates. A piece that is so far down in both is never
among the first ten of the fused ranking."""


@dataclass(frozen=True)
class Ranked:
    """How a piece did in one ranking."""

    score: float
    rank: int
    """1 for the best; among the candidates."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "score": self.score,
            "rank": self.rank,
        }


@dataclass(frozen=True)
class Found:
    """A piece that was found, with all that decided its place."""

    piece: Piece
    score: float
    """The fused score, 0 to 1; by it found pieces are ordered. It compares them for one query."""
    dense: Ranked
    """Its cosine with the query, -1 to 1."""
    lexical: Ranked
    """Its BM25 score; 0 when no word of the query stands in it."""
    reranked: float | None = None
    """What the cross-encoder gave it; None where it was not read. By it, if at all, the first are
    ordered."""
    also: tuple[Piece, ...] = ()
    """Other pieces that say the same, which were left out."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "piece": self.piece.to_dict(),
            "score": self.score,
            "dense": self.dense.to_dict(),
            "lexical": self.lexical.to_dict(),
            "reranked": self.reranked,
            "also": [piece.to_dict() for piece in self.also],
        }


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
        pieces: of the index.
        nearest: its vectors.
        words: its words.
        embedder: what the vectors were made with.
    """

    def __init__(
        self,
        name: str,
        pieces: Passages,
        nearest: vectors.Vectors,
        words: lexical.Lexical,
        embedder: Embedder,
    ) -> None:
        self.name = name
        self.pieces = pieces
        self.embedder = embedder
        self._vectors = nearest
        self._lexical = words

    @classmethod
    def open(cls, index: IndexFolder) -> Index:
        """Open an index; its embedder is loaded by the first search.

        Raises:
            UsageError: it is not finished.
            ChatlmError: it is damaged, or its embedder is not here or is another one now.
        """

        def opener(at: Path) -> Index:
            made = manifest.read(at)
            embedder = _embedder(embedders.check(index.name, made.embedder).folder)
            pieces, nearest, words = Passages(at), vectors.open(at), lexical.open(at)
            if {len(pieces), len(nearest), len(words)} != {made.pieces}:
                raise ValueError("its files have not the same number of passages")
            return cls(index.name, pieces, nearest, words, embedder)

        with reading(index.name):
            return index.open(opener)

    def search(self, query: str, k: int = 8, reranker: Reranker | None = None) -> list[Found]:
        """The pieces that fit a query best, best first; of pieces that say the same, the best.

        Args:
            query: a question, or some words.
            k: at most so many.
            reranker: puts the first in a better order; None leaves them as they are.

        Raises:
            ChatlmError: the embedder or the reranker cannot be loaded.
        """
        found = self._found(self.candidates(query))
        if reranker:
            found = _reordered(query, list(islice(found, MOST)), reranker)
        return _merged(found, k)

    def confidence(self, query: str, found: Sequence[Found]) -> float:
        """How sure it is that what a search found has to do with the query, about 0 to 1.

        Below `abstaining.THRESHOLD` nothing relevant was found.
        """
        with reading(self.name):
            return abstaining.confidence(query, found, self._lexical.rarity)

    def fits(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """How well each text answers a query, about 0 to 1: the mean of its cosine with the query
        and of how much of the query's words stands in it, rare ones counting more.

        Raises:
            ChatlmError: the embedder cannot be loaded.
        """
        import numpy as np

        cosines = self.embedder.embed(texts) @ self.embedder.embed_query(query)
        with reading(self.name):
            asked = {stem: self._lexical.rarity(stem) for stem in lexical.stems(query)}
        there = (set(lexical.stems(text)) for text in texts)
        covered = np.array([sum(asked[stem] for stem in asked.keys() & each) for each in there])
        fits = (cosines + covered / (sum(asked.values()) or 1)) / 2
        return fits.astype(np.float32)

    def candidates(self, query: str, depth: int = DEPTH) -> Candidates:
        """The best by each kind, with the scores of both kinds; see `search`."""
        import numpy as np

        vector = self.embedder.embed_query(query)
        with reading(self.name):
            near, _ = self._vectors.search(vector, depth)
            scores = self._lexical.scores(query)
            depth = min(depth, len(scores))
            worded = np.argpartition(-scores, depth - 1)[:depth]
            ids = np.union1d(near, worded[scores[worded] > 0])
            dense, by_words = self._vectors.cosines(vector, ids), scores[ids]
        fused = fuse(dense, by_words)
        order = np.argsort(-fused, kind="stable")
        return Candidates(ids[order], fused[order], dense[order], by_words[order])

    def _found(self, candidates: Candidates) -> Iterator[Found]:
        """The candidates in their order; a piece is read when it is reached."""
        dense, by_words = _ranks(candidates.dense), _ranks(candidates.lexical)
        for place, number in enumerate(candidates.ids):
            yield Found(
                piece=self.pieces[int(number)],
                score=float(candidates.fused[place]),
                dense=Ranked(float(candidates.dense[place]), int(dense[place])),
                lexical=Ranked(float(candidates.lexical[place]), int(by_words[place])),
            )


def _merged(found: Iterable[Found], k: int) -> list[Found]:
    """The first k that say something new, each with the others that say the same."""
    kept: list[tuple[Wording, Found]] = []
    for each in found:
        wording = Wording(each.piece.text)
        for place, (other, first) in enumerate(kept):
            if other.says_the_same(wording):
                kept[place] = (other, replace(first, also=(*first.also, each.piece)))
                break
        else:
            if len(kept) == k:
                break
            kept.append((wording, each))
    return [each for _, each in kept]


def _reordered(query: str, found: list[Found], reranker: Reranker) -> Iterator[Found]:
    scores = reranker.scores(query, [each.piece.indexed for each in found])
    for place in (-scores).argsort(kind="stable"):
        yield replace(found[place], reranked=float(scores[place]))


@cache
def _embedder(folder: Path) -> Embedder:
    """One for all indices that are made with it: it is large."""
    return Embedder(folder)


def _ranks(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    import numpy as np

    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks
