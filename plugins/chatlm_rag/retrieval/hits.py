"""SearchHit; origin kept with a passage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from chatlm import Passage
from chatlm_rag.index.chunks import Chunk

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class RankedScore:
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
class SearchHit:
    """A piece that was found, with all that decided its place."""

    chunk: Chunk
    score: float
    """The fused score, 0 to 1; by it found pieces are ordered. It compares them for one query."""
    dense: RankedScore
    """Its cosine with the query, -1 to 1."""
    lexical: RankedScore
    """Its BM25 score; 0 when no word of the query stands in it."""
    rerank_score: float | None = None
    """What the cross-encoder gave it; None where it was not read. By it, if at all, the first are
    ordered."""
    duplicates: tuple[Chunk, ...] = ()
    """Other pieces that say the same, which were left out."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "piece": self.chunk.to_dict(),
            "score": self.score,
            "dense": self.dense.to_dict(),
            "lexical": self.lexical.to_dict(),
            "reranked": self.rerank_score,
            "also": [piece.to_dict() for piece in self.duplicates],
        }


T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """What `Passage.details` says of a passage of an index."""

    index: str = ""
    """Its name; empty for a passage of another plugin."""
    chunk_id: int = -1
    """The passage's place in it, from 0; -1 where that is not known."""
    source: str = ""
    """The file, by its path below the folder it was found in, or the id in a corpus."""
    place: str = ""
    """The headings above it, joined by ` > `, or the page; may be empty."""
    path: str = ""
    """Of the file on this machine; empty where that is not known."""
    line: int = 0
    """The file's line it begins on, from 1; 0 where a file has no lines."""
    dense_rank: int = 0
    """By meaning, 1 for the best."""
    dense_score: float = 0.0
    """Its cosine with the question, -1 to 1."""
    lexical_rank: int = 0
    """By words, 1 for the best."""
    lexical_score: float = 0.0
    """Its BM25 score; 0 when no word of the question stands in it."""
    duplicates: tuple[str, ...] = ()
    """Where passages are that say the same and were left out."""

    @property
    def label(self) -> str:
        """The file with its line, then the place."""
        line = f":{self.line}" if self.line else ""
        return f"{self.source}{line}{f', {self.place}' if self.place else ''}"

    @property
    def short_label(self) -> str:
        """The file's own name and the last heading, or the page."""
        file, place = self.source.rpartition("/")[2], self.place.rpartition(" > ")[2]
        return f"{file}, {place}" if place else file

    def to_details(self) -> dict[str, Any]:
        """As a passage keeps it."""
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
    """Read what is kept with a passage.

    A chat may come from a file that somebody else wrote: what is of a wrong type is passed over.
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
        duplicates=tuple(each for each in also if isinstance(each, str))
        if isinstance(also, list)
        else (),
    )


def _get_typed(details: Mapping[str, Any], name: str, default: T) -> T:
    value = details.get(name)
    return value if type(value) is type(default) else default
