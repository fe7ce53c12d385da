"""Answers quoted from passages.

A model of 135 million weights answered at most 9 of 24 newcomers' questions from the manual,
however it was asked, and 10 of 24 of XQuAD; quotations held the answer to 20 of either
(`python -m benchmarks.grounding`). So such a model is not asked at first.

Headings, rules and entries of a table of contents are left out. Pure functions over texts.
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
from chatlm_rag.settings import Settings

SMALL_MODEL_WEIGHTS = 500_000_000
"""Models with fewer weights quote, unless the person says otherwise."""


MAX_QUOTES = 2
"""Statements that are quoted at most."""


MIN_RELATIVE_SCORE = 0.9
"""The second is quoted only if it fits at least so well, as a part of how well the first does."""


@dataclass(frozen=True)
class Quote:
    """A statement of a passage."""

    number: int
    """The passage's, from 1."""
    text: str
    score: float
    """How well it fits the question, about 0 to 1; a third of it is how well its passage does."""


def answer_with_quotes(
    request: Request, turn: Turn, passages: Sequence[Passage], engine: Engine
) -> Request:
    """The request with the answer in quotations, where the model is not to write it.

    A reply that is gone on with, and one to what a template made of the person's words, are always
    the model's.

    Args:
        request: as it is without.
        turn: the one to answer.
        passages: those that the model would read.
        engine: would carry the request out.
    """
    begun = request.messages[-1].role == "assistant"
    if begun or turn.raw_input or not passages or not _should_quote(engine):
        return request
    try:
        name = next(filter(None, (origin_of(passage).index for passage in passages)))
        index = get_open_index(name).index
    except ChatlmError:  # it was there when the question was asked
        return request
    found = select_quotes(index, turn.display_text, passages)
    if not found:
        return request
    said = Message("assistant", format_quotes(found))
    return dataclasses.replace(request, messages=(*request.messages, said), reply_complete=True)


def format_quotes(selected: Sequence[Quote]) -> str:
    """Quotations as Markdown, each with the number of its passage."""
    return "\n\n".join(f"> {escape_markup(quote.text)} [{quote.number}]" for quote in selected)


def select_quotes(index: Index, question: str, passages: Sequence[Passage]) -> list[Quote]:
    """The statements that fit a question best, best first; none says the same as one before it."""
    said = [
        (number, text)
        for number, passage in enumerate(passages, start=1)
        for text in statements(passage.text)
    ]
    fits = index.answer_scores(question, [text for _, text in said])
    ranked = sorted(
        (
            Quote(number, text, (2 * float(fit) + passages[number - 1].score) / 3)
            for (number, text), fit in zip(said, fits, strict=True)
        ),
        key=lambda quote: -quote.score,
    )
    kept: list[tuple[Shingles, Quote]] = []
    for quote in ranked:
        if len(kept) == MAX_QUOTES or quote.score < MIN_RELATIVE_SCORE * ranked[0].score:
            break
        wording = Shingles(quote.text)
        if not any(other.is_near_duplicate(wording) for other, _ in kept):
            kept.append((wording, quote))
    return [quote for _, quote in kept]


def _should_quote(engine: Engine) -> bool:
    answer = load_plugin_settings(PLUGIN, Settings).answer
    weights = engine.info.num_parameters
    return answer == "quote" or (
        answer == "auto" and weights is not None and weights < SMALL_MODEL_WEIGHTS
    )


MAX_SENTENCE_CHARS = 400
"""Characters of a sentence; where one is longer, lines are taken for it."""


_FENCE = re.compile(r"\s*(```|~~~)")


_HEADING = re.compile(r"#{1,6}\s")


_LIST_ITEM = re.compile(r"\A(?:[-*+•]|\d{1,3}[.)])\s+")


_TABLE_ROW = re.compile(r"\|")


_RULE = re.compile(r"[\s|:=*_-]*")


_ONLY_A_LINK = re.compile(r"\[[^\]]*\]\([^)]*\)")


_LEAD_IN = re.compile(r"[?:][*_\"'”’)]*\Z")


_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])")


def statements(text: str) -> Iterator[str]:
    """Each statement of a text in its order, on one line, without its list or table marks.

    A question says nothing by itself, nor does what ends in a colon: it stands before what follows.
    """
    lead = ""
    for part in _sentences(text):
        said = f"{lead} {part}" if lead else part
        lead = said if _LEAD_IN.search(part) else ""
        if not lead:
            yield said


def _sentences(text: str) -> Iterator[str]:
    for block in _blocks(text):
        whole = " ".join(block)
        sentences = _SENTENCE_END.split(whole)
        for part in block if max(map(len, sentences)) > MAX_SENTENCE_CHARS else sentences:
            if any(map(str.isalnum, part)) and not _ONLY_A_LINK.fullmatch(part):
                yield part


def _blocks(text: str) -> Iterator[list[str]]:
    """The lines that belong together: of a paragraph, an item, a row, or one of code."""
    block: list[str] = []
    row = fenced = False
    for line in text.splitlines():
        words = " ".join(line.split())
        if _FENCE.match(line):
            begins, fenced = True, not fenced
            words = ""
        elif fenced:
            begins, words = True, f"`{words}`" if words and "`" not in words else words
        elif words and _RULE.fullmatch(words):  # a row above it is the head of a table
            block = [] if row else block
            begins, words = True, ""
        else:
            begins = row or bool(
                _TABLE_ROW.match(words) or _LIST_ITEM.match(words) or _HEADING.match(words)
            )
            row = bool(_TABLE_ROW.match(words))
        if block and (begins or not words):
            yield block
            block = []
        if words and not _HEADING.match(words):
            block.append(_join_cells(words) if row else _LIST_ITEM.sub("", words, count=1))
    if block:
        yield block


def _join_cells(row: str) -> str:
    return ", ".join(cell.strip() for cell in row.strip("|").split("|") if cell.strip())
