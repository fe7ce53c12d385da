"""Retrieve the passages for a question, or say that the index has nothing relevant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from chatlm import (
    Annotation,
    ChatlmError,
    Passage,
    UsageError,
    load_plugin_settings,
    one_line,
)
from chatlm_rag import PLUGIN
from chatlm_rag.index import embedding
from chatlm_rag.retrieval.calibration import threshold_of
from chatlm_rag.retrieval.hits import Origin, SearchHit
from chatlm_rag.retrieval.prompting import escape_markup
from chatlm_rag.retrieval.relevance import CONSIDERED_HITS
from chatlm_rag.retrieval.search import OpenIndex, configured_reranker, get_open_index
from chatlm_rag.settings import Settings

TURN_OFF_HINT = "/rag off stops the search in this chat."


CLOSEST_PASSAGES = 3
"""Passages that are shown where none is relevant."""

ASK_WITHOUT_DOCUMENTS = Annotation(
    PLUGIN, "answer", "nothing relevant; /regenerate asks the model without documents"
)
"""Annotation of a reply that says so."""


@dataclass(frozen=True)
class SearchResult:
    """The hits for a question and their confidence."""

    hits: tuple[SearchHit, ...]
    """Best first."""
    confidence: float
    """Confidence that the hits answer the question, 0 to 1; see `Index.confidence`."""
    threshold: float
    """The least confidence with which hits count as relevant."""

    @property
    def relevant(self) -> bool:
        """Whether the confidence reaches the threshold."""
        return self.confidence >= self.threshold


def search_index(name: str, question: str) -> SearchResult:
    """Search an index for a question; recent results are cached.

    Raises:
        ChatlmError: the index cannot be opened, or its embedder cannot be loaded.
    """
    hits, confidence = _cached_search(get_open_index(name), question)
    return SearchResult(hits, confidence, threshold_of(name))


def search_problem(name: str, question: str) -> UsageError | None:
    """Return why a question cannot be searched, which keeps it from being sent; None if it can."""
    try:
        search_index(name, question)
    except ChatlmError as error:
        if embedding.is_being_fetched():
            return UsageError(
                f"Nothing was sent. {name} is still being opened; its embedder is downloaded.",
                hint=f"Send the message again when the download is done. {TURN_OFF_HINT}",
            )
        hint = f"{error.hint}\n{TURN_OFF_HINT}" if error.hint else TURN_OFF_HINT
        return UsageError(f"Nothing was sent. {error.message}", hint=hint)
    return None


def nothing_relevant_reply(name: str, question: str) -> str | None:
    """Return the reply to a question that an index does not answer, in Markdown; None if it does.

    It shows the closest passages. With the setting `answer_anyway` the model answers instead.

    Raises:
        ChatlmError: the index cannot be searched.
    """
    result = search_index(name, question)
    if result.relevant or load_plugin_settings(PLUGIN, Settings).answer_anyway:
        return None
    title = f"Nothing relevant in {escape_markup(name)}."
    if not result.hits:
        return title
    passages = to_passages(get_open_index(name), result.hits[:CLOSEST_PASSAGES])
    quotes = [
        f"> {escape_markup(one_line(each.text, 240))}\n>\n> {escape_markup(each.source)}"
        for each in passages
    ]
    return "\n\n".join([f"{title} The closest passages:", *quotes])


def question_annotation(name: str, question: str) -> Annotation:
    """Return the annotation of a question: how many passages were found, and the confidence.

    Raises:
        ChatlmError: the index cannot be searched.
    """
    result = search_index(name, question)
    count = min(len(result.hits), load_plugin_settings(PLUGIN, Settings).passages)
    summary = f"{count} from {name}" if result.relevant else f"nothing relevant in {name}"
    return Annotation(PLUGIN, "passages", summary, result.confidence)


def find_passages(name: str, question: str) -> list[Passage]:
    """Return the passages that the model reads for a question; none if nothing is relevant.

    Raises:
        ChatlmError: the index cannot be searched.
    """
    result = search_index(name, question)
    if not result.relevant:
        return []
    limit = load_plugin_settings(PLUGIN, Settings).passages
    return to_passages(get_open_index(name), result.hits[:limit])


def to_passages(open_index: OpenIndex, hits: Sequence[SearchHit]) -> list[Passage]:
    """Return search hits as passages of a chat."""
    return [_hit_to_passage(open_index, hit) for hit in hits]


@lru_cache(maxsize=4)
def _cached_search(open_index: OpenIndex, question: str) -> tuple[tuple[SearchHit, ...], float]:
    limit = max(load_plugin_settings(PLUGIN, Settings).passages, CONSIDERED_HITS)
    hits = open_index.index.search(question, limit, configured_reranker())
    return tuple(hits), open_index.index.confidence(question, hits)


def _hit_to_passage(open_index: OpenIndex, hit: SearchHit) -> Passage:
    folder, chunk = open_index.index_folder, hit.chunk
    path = open_index.manifest.file_of(chunk.id).path
    origin = Origin(
        index=folder.name,
        chunk_id=chunk.id,
        source=chunk.source,
        place=chunk.place,
        # paths in a shipped index are relative to the folder that contains `indices`
        path=path if folder.is_user_index else str(folder.path.parents[1] / path),
        line=chunk.line,
        dense_rank=hit.dense.rank,
        dense_score=hit.dense.score,
        lexical_rank=hit.lexical.rank,
        lexical_score=hit.lexical.score,
        duplicates=tuple(f"{each.source}:{each.line}" for each in hit.duplicates),
    )
    place = f", {chunk.place}" if chunk.place else ""
    return Passage(chunk.shown_text, f"{chunk.source}{place}", hit.score, origin.to_details())
