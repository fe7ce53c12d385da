"""What an index has for a question, or that it has nothing; knows no screen and no prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from chatlm import Annotation, ChatlmError, MessageRefused, Passage, UsageError, own_settings
from chatlm_rag import PLUGIN
from chatlm_rag.retrieval.hits import Found, Origin
from chatlm_rag.retrieval.relevance import CONSIDERED, THRESHOLD
from chatlm_rag.retrieval.search import OpenIndex, configured, opened
from chatlm_rag.settings import Settings

END = "/rag off ends the search in this chat."


_refused: set[tuple[str, str]] = set()
"""Indices and questions that were refused; asked once more, they go to the model alone."""


@dataclass(frozen=True)
class Answer:
    """What an index has for a question."""

    found: tuple[Found, ...]
    """Best first."""
    confidence: float
    """See `Index.confidence`."""

    @property
    def relevant(self) -> bool:
        """Whether it has to do with the question at all."""
        return self.confidence >= THRESHOLD


def look_up(name: str, question: str) -> Answer:
    """What an index has for a question; the same question is not searched for twice.

    Raises:
        ChatlmError: the index or its embedder cannot be used.
    """
    return _looked_up(opened(name), question)


def refusal(name: str, question: str) -> UsageError | None:
    """Why a question is not sent, if it is not: the index cannot be used, or has nothing for it.

    A question that was refused for the latter goes through when it is sent again.
    """
    try:
        answer = look_up(name, question)
    except ChatlmError as error:
        hint = f"{error.hint}\n{END}" if error.hint else END
        return UsageError(f"Nothing was sent. {error.message}", hint=hint)
    if answer.relevant or own_settings(PLUGIN, Settings).answer_anyway:
        return None
    if (name, question) in _refused:
        return None
    _refused.add((name, question))
    return MessageRefused(
        f"Nothing relevant in {name}; nothing was sent.",
        hint=f"Send it again to ask the model alone. {END}",
    )


def label(name: str, question: str) -> Annotation:
    """What is shown below a question: how much was found for it, and how sure that is.

    Raises:
        ChatlmError: see `look_up`.
    """
    answer = look_up(name, question)
    count = min(len(answer.found), own_settings(PLUGIN, Settings).passages)
    found = f"{count} from {name}" if answer.relevant else f"nothing relevant in {name}"
    return Annotation(PLUGIN, "passages", found, answer.confidence)


def passages(name: str, question: str) -> list[Passage]:
    """What the model is to read for a question; nothing where nothing is relevant.

    Raises:
        ChatlmError: see `look_up`.
    """
    asked = opened(name)
    answer = _looked_up(asked, question)
    if not answer.relevant:
        return []
    most = own_settings(PLUGIN, Settings).passages
    return [_passage(asked, each) for each in answer.found[:most]]


@lru_cache(maxsize=4)
def _looked_up(asked: OpenIndex, question: str) -> Answer:
    most = max(own_settings(PLUGIN, Settings).passages, CONSIDERED)
    found = asked.index.search(question, most, configured())
    return Answer(tuple(found), asked.index.confidence(question, found))


def _passage(asked: OpenIndex, found: Found) -> Passage:
    place, piece = asked.place, found.piece
    path = asked.made.file_of(piece.id).path
    origin = Origin(
        index=place.name,
        piece=piece.id,
        source=piece.source,
        place=piece.place,
        path=path if place.own else str(place.path.parents[1] / path),
        line=piece.line,
        dense_rank=found.dense.rank,
        dense=found.dense.score,
        lexical_rank=found.lexical.rank,
        lexical=found.lexical.score,
        also=tuple(f"{each.source}:{each.line}" for each in found.also),
    )
    where = f", {piece.place}" if piece.place else ""
    return Passage(piece.text, f"{piece.source}{where}", found.score, origin.to_details())
