"""Which index a chat is about, and what it has for a question; knows no screen and no prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from chatlm import ChatlmError, Conversation, Passage, UsageError, one_line, own_settings
from chatlm_rag import PLUGIN, manifest
from chatlm_rag.abstaining import CONSIDERED, THRESHOLD
from chatlm_rag.folder import IndexFolder, located
from chatlm_rag.opened import opened
from chatlm_rag.plugin import Settings
from chatlm_rag.prompting import INDEX
from chatlm_rag.reranking import configured
from chatlm_rag.searching import Found, Index

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


def index_of(kept: Mapping[str, Any]) -> str:
    """The name of the index that a chat is about, from what is kept with it; empty for none.

    A chat may come from a file that somebody else wrote: what is no text is passed over.
    """
    name = kept.get(INDEX)
    return name if isinstance(name, str) else ""


def index_in(conversation: Conversation) -> str:
    """The same, from the chat itself."""
    return index_of(conversation.kept.get(PLUGIN, {}))


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
    return UsageError(
        f"Nothing relevant in {name}; nothing was sent.",
        hint=f"Send it again to ask the model alone. {END}",
    )


def passages(name: str, question: str) -> list[Passage]:
    """What the model is to read for a question; nothing where nothing is relevant.

    Raises:
        ChatlmError: see `look_up`.
    """
    answer = look_up(name, question)
    if not answer.relevant:
        return []
    place = located(name)
    made = place.open(manifest.read)
    most = own_settings(PLUGIN, Settings).passages
    return [_passage(place, made, each) for each in answer.found[:most]]


@lru_cache(maxsize=4)
def _looked_up(index: Index, question: str) -> Answer:
    most = max(own_settings(PLUGIN, Settings).passages, CONSIDERED)
    found = index.search(question, most, configured())
    return Answer(tuple(found), index.confidence(question, found))


def _passage(place: IndexFolder, made: manifest.Manifest, found: Found) -> Passage:
    piece = found.piece
    where = f", {one_line(piece.place, 100)}" if piece.place else ""
    details = {
        INDEX: place.name,
        "piece": piece.id,
        "path": path_of(place, made.file_of(piece.id).path),
        "source": piece.source,
        "place": piece.place,
        "line": piece.line,
        "dense": [found.dense.rank, found.dense.score],
        "lexical": [found.lexical.rank, found.lexical.score],
        "reranked": found.reranked,
        "also": [f"{each.source}:{each.line}" for each in found.also],
    }
    return Passage(piece.text, f"{piece.source}{where}", found.score, details)


def path_of(place: IndexFolder, path: str) -> str:
    """Where a file of an index is; a shipped index has paths below the folder it came in."""
    return path if place.own else os.path.join(place.path.parents[1], Path(path))
