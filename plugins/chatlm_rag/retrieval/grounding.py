"""What an index has for a question, or that it has nothing; knows no screen and no prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from chatlm import (
    Annotation,
    ChatlmError,
    MessageRefused,
    Passage,
    UsageError,
    load_plugin_settings,
)
from chatlm_rag import PLUGIN
from chatlm_rag.retrieval.hits import Origin, SearchHit
from chatlm_rag.retrieval.relevance import CONSIDERED_HITS, THRESHOLD
from chatlm_rag.retrieval.search import OpenIndex, configured_reranker, get_open_index
from chatlm_rag.settings import Settings

TURN_OFF_HINT = "/rag off ends the search in this chat."


_refused_questions: set[tuple[str, str]] = set()
"""Indices and questions that were refused; asked once more, they go to the model alone."""


@dataclass(frozen=True)
class SearchResult:
    """What an index has for a question."""

    hits: tuple[SearchHit, ...]
    """Best first."""
    confidence: float
    """See `Index.confidence`."""

    @property
    def relevant(self) -> bool:
        """Whether it has to do with the question at all."""
        return self.confidence >= THRESHOLD


def search_index(name: str, question: str) -> SearchResult:
    """What an index has for a question; the same question is not searched for twice.

    Raises:
        ChatlmError: the index or its embedder cannot be used.
    """
    return _cached_search(get_open_index(name), question)


def refusal(name: str, question: str) -> UsageError | None:
    """Why a question is not sent, if it is not: the index cannot be used, or has nothing for it.

    A question that was refused for the latter goes through when it is sent again.
    """
    try:
        answer = search_index(name, question)
    except ChatlmError as error:
        hint = f"{error.hint}\n{TURN_OFF_HINT}" if error.hint else TURN_OFF_HINT
        return UsageError(f"Nothing was sent. {error.message}", hint=hint)
    if answer.relevant or load_plugin_settings(PLUGIN, Settings).answer_anyway:
        return None
    if (name, question) in _refused_questions:
        return None
    _refused_questions.add((name, question))
    return MessageRefused(
        f"Nothing relevant in {name}; nothing was sent.",
        hint=f"Send it again to ask the model alone. {TURN_OFF_HINT}",
    )


def question_annotation(name: str, question: str) -> Annotation:
    """What is shown below a question: how much was found for it, and how sure that is.

    Raises:
        ChatlmError: see `look_up`.
    """
    answer = search_index(name, question)
    count = min(len(answer.hits), load_plugin_settings(PLUGIN, Settings).passages)
    found = f"{count} from {name}" if answer.relevant else f"nothing relevant in {name}"
    return Annotation(PLUGIN, "passages", found, answer.confidence)


def find_passages(name: str, question: str) -> list[Passage]:
    """What the model is to read for a question; nothing where nothing is relevant.

    Raises:
        ChatlmError: see `look_up`.
    """
    asked = get_open_index(name)
    answer = _cached_search(asked, question)
    if not answer.relevant:
        return []
    most = load_plugin_settings(PLUGIN, Settings).passages
    return [_hit_to_passage(asked, each) for each in answer.hits[:most]]


@lru_cache(maxsize=4)
def _cached_search(open_index: OpenIndex, question: str) -> SearchResult:
    most = max(load_plugin_settings(PLUGIN, Settings).passages, CONSIDERED_HITS)
    found = open_index.index.search(question, most, configured_reranker())
    return SearchResult(tuple(found), open_index.index.confidence(question, found))


def _hit_to_passage(open_index: OpenIndex, hit: SearchHit) -> Passage:
    place, piece = open_index.index_folder, hit.chunk
    path = open_index.manifest.file_of(piece.id).path
    origin = Origin(
        index=place.name,
        chunk_id=piece.id,
        source=piece.source,
        place=piece.place,
        path=path if place.is_user_index else str(place.path.parents[1] / path),
        line=piece.line,
        dense_rank=hit.dense.rank,
        dense_score=hit.dense.score,
        lexical_rank=hit.lexical.rank,
        lexical_score=hit.lexical.score,
        duplicates=tuple(f"{each.source}:{each.line}" for each in hit.duplicates),
    )
    where = f", {piece.place}" if piece.place else ""
    return Passage(piece.text, f"{piece.source}{where}", hit.score, origin.to_details())
