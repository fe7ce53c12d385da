"""Search hits, and the origin of a passage as it is stored with a chat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from chatlm import Passage
from chatlm_rag.index.chunks import Chunk


@dataclass(frozen=True)
class RankedScore:
    """Score and rank of a chunk in one ranking."""

    score: float
    rank: int
    """Among the candidates, from 1."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "score": self.score,
            "rank": self.rank,
        }


@dataclass(frozen=True)
class SearchHit:
    """A chunk that matches a query, with the scores that determine its rank."""

    chunk: Chunk
    score: float
    """The fused score, 0 to 1, which orders the hits of one query."""
    dense: RankedScore
    """Cosine with the query, -1 to 1."""
    lexical: RankedScore
    """BM25 score; 0 if the chunk contains no word of the query."""
    rerank_score: float | None = None
    """Score of the cross-encoder, which then orders the hits; None if it was not reranked."""
    duplicates: tuple[Chunk, ...] = ()
    """Near-duplicates that were dropped from the hits."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "piece": self.chunk.to_dict(),
            "score": self.score,
            "dense": self.dense.to_dict(),
            "lexical": self.lexical.to_dict(),
            "reranked": self.rerank_score,
            "also": [chunk.to_dict() for chunk in self.duplicates],
        }


T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where a passage comes from and how it ranked, as stored in `Passage.details`."""

    index: str = ""
    """Name of the index; empty for a passage of another plugin."""
    chunk_id: int = -1
    """Id of the chunk in the index, from 0; -1 if unknown."""
    source: str = ""
    """Path of the file relative to the source's parent folder, or the id in a corpus."""
    place: str = ""
    """The headings above it, joined by ` > `, or the page; may be empty."""
    path: str = ""
    """Path of the file on this machine; empty if unknown."""
    line: int = 0
    """Line of the file on which it starts, from 1; 0 if the file has no lines."""
    dense_rank: int = 0
    """Rank by cosine, from 1."""
    dense_score: float = 0.0
    """Cosine with the question, -1 to 1."""
    lexical_rank: int = 0
    """Rank by BM25, from 1."""
    lexical_score: float = 0.0
    """BM25 score; 0 if the passage contains no word of the question."""
    duplicates: tuple[str, ...] = ()
    """Locations of near-duplicates that were dropped."""

    @property
    def label(self) -> str:
        """The file with its line, then the headings or the page."""
        line = f":{self.line}" if self.line else ""
        return f"{self.source}{line}{f', {self.place}' if self.place else ''}"

    @property
    def short_label(self) -> str:
        """The file name without folders, and the last heading or the page."""
        file, place = self.source.rpartition("/")[2], self.place.rpartition(" > ")[2]
        return f"{file}, {place}" if place else file

    def to_details(self) -> dict[str, Any]:
        """Convert to the value of `Passage.details`."""
        return {
            "index": self.index,
            "piece": self.chunk_id,
            "source": self.source,
            "place": self.place,
            "path": self.path,
            "line": self.line,
            "dense_rank": self.dense_rank,
            "dense": self.dense_score,
            "lexical_rank": self.lexical_rank,
            "lexical": self.lexical_score,
            "also": list(self.duplicates),
        }


def origin_of(passage: Passage) -> Origin:
    """Read the origin of a passage.

    Values of the wrong type are ignored, since a chat may be imported from any file.
    """
    details = passage.details
    also = details.get("also")
    return Origin(
        index=_get_typed(details, "index", ""),
        chunk_id=_get_typed(details, "piece", -1),
        source=_get_typed(details, "source", passage.source),
        place=_get_typed(details, "place", ""),
        path=_get_typed(details, "path", ""),
        line=_get_typed(details, "line", 0),
        dense_rank=_get_typed(details, "dense_rank", 0),
        dense_score=_get_typed(details, "dense", 0.0),
        lexical_rank=_get_typed(details, "lexical_rank", 0),
        lexical_score=_get_typed(details, "lexical", 0.0),
        duplicates=tuple(label for label in also if isinstance(label, str))
        if isinstance(also, list)
        else (),
    )


def _get_typed(details: Mapping[str, Any], name: str, default: T) -> T:
    value = details.get(name)
    return value if type(value) is type(default) else default
