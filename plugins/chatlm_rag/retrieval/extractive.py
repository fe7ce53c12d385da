"""Extractive answers: quote the statements of the passages that answer, instead of generating.

With any prompt, a model with 135 million parameters answered at most 9 of 24 beginners' questions
from the manual and 10 of 24 from XQuAD; quotes contained the answer to 20 of each
(`python -m benchmarks.grounding_prompts`). So with a model that small, the first reply is quoted.
The reader chooses the statements; `python -m benchmarks.grounding` measures how well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from chatlm import ChatlmError, Engine, Message, Passage, Request, Turn, load_plugin_settings
from chatlm_rag import PLUGIN
from chatlm_rag.reading.answer_scores import answer_score
from chatlm_rag.reading.reader import Reading, reading_title, shared_reader
from chatlm_rag.retrieval.hits import origin_of
from chatlm_rag.retrieval.prompting import escape_markup
from chatlm_rag.retrieval.search import Shingles
from chatlm_rag.settings import Settings

SMALL_MODEL_WEIGHTS = 500_000_000
"""By default, models with fewer parameters quote."""


MAX_QUOTES = 3
"""Limit for the quoted statements."""


MAX_GAP = 2.0
"""Another statement is quoted if its score is at most this much lower than the best."""


@dataclass(frozen=True)
class Quote:
    """A statement quoted from a passage."""

    number: int
    """Number of the passage, from 1."""
    text: str
    score: float
    """How well it answers the question: the reader's log-odds and more, see `answer_score`."""


def answer_with_quotes(
    request: Request, turn: Turn, passages: Sequence[Passage], engine: Engine
) -> Request:
    """Complete the request with a quoted answer if the model should not write one.

    The model always writes when a reply is continued and when a template rewrote the message.

    Args:
        request: to the model.
        turn: the turn to answer.
        passages: the passages in the prompt.
        engine: the engine of the request.
    """
    is_continued = request.messages[-1].role == "assistant"
    if is_continued or turn.raw_input or not passages or not _should_quote(engine):
        return request
    quotes = select_quotes(turn.display_text, passages)
    if not quotes:
        return request
    answer = Message("assistant", format_quotes(quotes))
    return dataclasses.replace(request, messages=(*request.messages, answer), reply_complete=True)


def format_quotes(selected: Sequence[Quote]) -> str:
    """Format quotes as Markdown, each with the number of its passage."""
    return "\n\n".join(f"> {escape_markup(quote.text)} [{quote.number}]" for quote in selected)


def read_passages(question: str, passages: Sequence[Passage]) -> list[Reading]:
    """Return how well the statements of each passage answer a question.

    Raises:
        ChatlmError: the reader cannot be loaded.
    """
    return shared_reader().read(
        question, [(reading_title(origin_of(each).place), each.text) for each in passages]
    )


def try_to_read(question: str, passages: Sequence[Passage]) -> list[Reading]:
    """Return what `read_passages` does; nothing if the reader is not on this machine any more."""
    try:
        return read_passages(question, passages)
    except ChatlmError:
        return []


def select_quotes(question: str, passages: Sequence[Passage]) -> list[Quote]:
    """Return the statements that answer a question best, best first, without near-duplicates.

    Raises:
        ChatlmError: the reader cannot be loaded.
    """
    ranked = sorted(
        (
            Quote(number, text, answer_score(question, text, score, passages[number - 1].score))
            for number, reading in enumerate(read_passages(question, passages), start=1)
            for text, score in zip(reading.statements, reading.scores, strict=True)
        ),
        key=lambda quote: -quote.score,
    )
    selected: list[tuple[Shingles, Quote]] = []
    for quote in ranked:
        if len(selected) == MAX_QUOTES or quote.score < ranked[0].score - MAX_GAP:
            break
        shingles = Shingles(quote.text)
        if not any(other.is_near_duplicate(shingles) for other, _ in selected):
            selected.append((shingles, quote))
    return [quote for _, quote in selected]


def _should_quote(engine: Engine) -> bool:
    answer = load_plugin_settings(PLUGIN, Settings).answer
    parameters = engine.info.num_parameters
    return answer == "quote" or (
        answer == "auto" and parameters is not None and parameters < SMALL_MODEL_WEIGHTS
    )
