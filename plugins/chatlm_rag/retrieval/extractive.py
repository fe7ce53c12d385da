"""Extractive answers: quote the best statements of the passages instead of generating text.

With any prompt, a model with 135 million parameters answered at most 9 of 24 beginners' questions
from the manual and 10 of 24 from XQuAD; quotes contained the answer to 20 of each
(`python -m benchmarks.grounding`). So with a model that small, the first reply is quoted. Headings,
rules and table-of-contents entries are never quoted.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatlm import ChatlmError, Engine, Message, Passage, Request, Turn, load_plugin_settings
from chatlm_rag import PLUGIN
from chatlm_rag.retrieval.hits import origin_of
from chatlm_rag.retrieval.prompting import escape_markup
from chatlm_rag.retrieval.search import Index, Shingles, get_open_index
from chatlm_rag.retrieval.sentences import split_sentences
from chatlm_rag.settings import Settings

SMALL_MODEL_WEIGHTS = 500_000_000
"""By default, models with fewer parameters quote."""


MAX_QUOTES = 2
"""Limit for the quoted statements."""


MIN_RELATIVE_SCORE = 0.9
"""A second statement is quoted if it has at least this share of the best score."""


@dataclass(frozen=True)
class Quote:
    """A statement quoted from a passage."""

    number: int
    """Number of the passage, from 1."""
    text: str
    score: float
    """How well it answers the question, about 0 to 1; one third is the score of its passage."""


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
    try:
        name = next(filter(None, (origin_of(passage).index for passage in passages)))
        index = get_open_index(name).index
    except ChatlmError:  # the index has been deleted since it was searched
        return request
    quotes = select_quotes(index, turn.display_text, passages)
    if not quotes:
        return request
    answer = Message("assistant", format_quotes(quotes))
    return dataclasses.replace(request, messages=(*request.messages, answer), reply_complete=True)


def format_quotes(selected: Sequence[Quote]) -> str:
    """Format quotes as Markdown, each with the number of its passage."""
    return "\n\n".join(f"> {escape_markup(quote.text)} [{quote.number}]" for quote in selected)


def select_quotes(index: Index, question: str, passages: Sequence[Passage]) -> list[Quote]:
    """Return the statements that answer a question best, best first, without near-duplicates."""
    numbered = [
        (number, text)
        for number, passage in enumerate(passages, start=1)
        for text in statements(passage.text)
    ]
    scores = index.answer_scores(question, [text for _, text in numbered])
    ranked = sorted(
        (
            Quote(number, text, (2 * float(score) + passages[number - 1].score) / 3)
            for (number, text), score in zip(numbered, scores, strict=True)
        ),
        key=lambda quote: -quote.score,
    )
    selected: list[tuple[Shingles, Quote]] = []
    for quote in ranked:
        if len(selected) == MAX_QUOTES or quote.score < MIN_RELATIVE_SCORE * ranked[0].score:
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


MAX_SENTENCE_CHARS = 400
"""A block with a longer sentence is split into lines instead of sentences."""


_FENCE = re.compile(r"\s*(```|~~~)")


_HEADING = re.compile(r"#{1,6}\s")


_LIST_ITEM = re.compile(r"\A(?:[-*+•]|\d{1,3}[.)])\s+")


_TABLE_ROW = re.compile(r"\|")


_RULE = re.compile(r"[\s|:=*_-]*")


_ONLY_A_LINK = re.compile(r"\[[^\]]*\]\([^)]*\)")


_LEAD_IN = re.compile(r"[?:][*_\"'”’)]*\Z")


def statements(text: str) -> Iterator[str]:
    """Yield the statements of a text in order, each on one line without list or table markup.

    A question, and a phrase that ends in a colon, is not a statement by itself; it is joined to the
    sentence that follows.
    """
    lead_in = ""
    for part in _sentences(text):
        statement = f"{lead_in} {part}" if lead_in else part
        lead_in = statement if _LEAD_IN.search(part) else ""
        if not lead_in:
            yield statement


def _sentences(text: str) -> Iterator[str]:
    for block in _blocks(text):
        sentences = split_sentences(" ".join(block))
        for part in (
            block if max(map(len, sentences), default=0) > MAX_SENTENCE_CHARS else sentences
        ):
            if any(map(str.isalnum, part)) and not _ONLY_A_LINK.fullmatch(part):
                yield part


def _blocks(text: str) -> Iterator[list[str]]:
    """Yield the lines of each paragraph, list item, table row or line of code."""
    block: list[str] = []
    is_row = in_code = False
    for line in text.splitlines():
        words = " ".join(line.split())
        if _FENCE.match(line):
            starts_block, in_code = True, not in_code
            words = ""
        elif in_code:
            starts_block, words = True, f"`{words}`" if words and "`" not in words else words
        elif words and _RULE.fullmatch(words):  # a row above a rule is the header of a table
            block = [] if is_row else block
            starts_block, words = True, ""
        else:
            starts_block = is_row or bool(
                _TABLE_ROW.match(words) or _LIST_ITEM.match(words) or _HEADING.match(words)
            )
            is_row = bool(_TABLE_ROW.match(words))
        if block and (starts_block or not words):
            yield block
            block = []
        if words and not _HEADING.match(words):
            block.append(_join_cells(words) if is_row else _LIST_ITEM.sub("", words, count=1))
    if block:
        yield block


def _join_cells(row: str) -> str:
    return ", ".join(cell.strip() for cell in row.strip("|").split("|") if cell.strip())
