"""Check the numbers and names of a reply, and find passages that disagree."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from chatlm import Passage
from chatlm_rag.index.bm25 import stems
from chatlm_rag.reading.reader import Reading
from chatlm_rag.reading.sentences import guess_language, split_sentences

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")

_NAME = re.compile(r"[A-Z][\w’'-]*(?:\s+[A-Z][\w’'-]*)*")

_WORD = re.compile(r"\w+")

_CITATION_OR_LINK = re.compile(r"\[[\d\s,]+\]|(?<=\])\([^)\s]*\)")

_LANGUAGES_WITH_CAPITAL_NOUNS = frozenset({"de"})

MAX_NAMED = 5
"""Unknown numbers and names that are listed."""

SURE_SCORE = 1.0
"""Log-odds from which a statement counts as an answer that may disagree with another."""

SAME_SUBJECT = 0.6
"""Share of the stems of the shorter statement that both must have to be about the same."""


@dataclass(frozen=True)
class Disagreement:
    """Two passages whose statements differ only in their numbers."""

    first: int
    """Number of a passage, from 1."""
    second: int
    values: tuple[str, str]
    """The numbers that only one of them has."""


def unknown_facts(reply: str, question: str, passages: Sequence[Passage]) -> list[str]:
    """Return the numbers and names of a reply that neither the passages nor the question have.

    A name is a run of capitalised words; the first word of a sentence is none by itself. In German,
    where all nouns are capitalised, only numbers are checked.
    """
    known = " ".join([question, *(f"{each.source} {each.text}" for each in passages)])
    numbers = set(map(_plain_number, NUMBER.findall(known)))
    words = {word.casefold() for word in _WORD.findall(known)}
    unknown: dict[str, None] = {}
    text = _CITATION_OR_LINK.sub(" ", reply)
    for number in NUMBER.findall(text):
        if _plain_number(number) not in numbers:
            unknown[number] = None
    if guess_language(text) not in _LANGUAGES_WITH_CAPITAL_NOUNS:
        for sentence in itertools.chain.from_iterable(map(split_sentences, text.splitlines())):
            for name in _names(sentence):
                if not {word.casefold() for word in _WORD.findall(name)} <= words:
                    unknown[name] = None
    return list(unknown)


def disagreements(readings: Sequence[Reading]) -> list[Disagreement]:
    """Return the pairs of passages that answer a question with other numbers.

    Args:
        readings: of the passages, in order.
    """
    answers = [
        (number, statement)
        for number, reading in enumerate(readings, start=1)
        for statement, score in zip(reading.statements, reading.scores, strict=True)
        if score >= SURE_SCORE and NUMBER.search(statement)
    ]
    found: dict[tuple[int, int], Disagreement] = {}
    for (first, one), (second, other) in itertools.combinations(answers, 2):
        if first != second and (values := _differing_numbers(one, other)):
            found.setdefault((first, second), Disagreement(first, second, values))
    return list(found.values())


def _differing_numbers(one: str, other: str) -> tuple[str, str] | None:
    """Return the numbers that only one of two statements about the same has; None if they agree."""
    mine, theirs = (
        dict.fromkeys(map(_plain_number, NUMBER.findall(text))) for text in (one, other)
    )
    only_mine = [number for number in mine if number not in theirs]
    only_theirs = [number for number in theirs if number not in mine]
    if not only_mine or not only_theirs:
        return None
    words = [set(stems(NUMBER.sub(" ", text))) for text in (one, other)]
    shorter = min(map(len, words))
    if not shorter or len(words[0] & words[1]) < SAME_SUBJECT * shorter:
        return None
    return ", ".join(only_mine), ", ".join(only_theirs)


def _names(sentence: str) -> list[str]:
    first = re.search(r"\w", sentence)
    start = first.start() if first else 0
    return [
        match[0]
        for match in _NAME.finditer(sentence)
        if match.start() > start or len(match[0].split()) > 1
    ]


def _plain_number(number: str) -> str:
    return number.replace(",", "")
