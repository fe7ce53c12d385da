"""Check which passages a reply cites, and whether they support its sentences.

A passage supports a sentence if it contains at least `SUPPORT_THRESHOLD` of its words (stems,
without stopwords) and all its numbers. On statements built from 300 questions and answers of XQuAD,
that is true for 92 % against the right passage and for 1 % against another passage of the same
article; adding the cosine of both does not help. A sentence that says the opposite in the same
words goes undetected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chatlm import Annotation, Passage, one_line
from chatlm_rag import PLUGIN
from chatlm_rag.index.bm25 import stems
from chatlm_rag.reading.reader import Reading
from chatlm_rag.reading.sentences import split_sentences
from chatlm_rag.retrieval.facts import MAX_NAMED, disagreements, unknown_facts
from chatlm_rag.retrieval.hits import origin_of

SUPPORT_THRESHOLD = 0.6


NO_SUPPORT = "none says this"
"""Annotation value of a reply that no passage supports."""


QUOTED_ANSWER = Annotation(PLUGIN, "answer", "quoted; /regenerate lets the model write one")
"""Annotation of a reply that consists of quotes."""


DISAGREE = "the passages disagree"
"""Annotation value for passages that give other numbers, before the numbers."""


OMITTED = "not read"
"""Annotation name for passages that did not fit the context window."""


_CODE_BLOCK = re.compile(r"(```|~~~).*?(\1|\Z)", re.DOTALL)


_INLINE_CODE = re.compile(r"`[^`\n]*`")


_CITATION = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\](?!\()")


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


_MIN_WORDS = 3
"""Uncited sentences with fewer words are too short to attribute to a passage."""


@dataclass
class CitationCheck:
    """How well one passage supports the sentences of a reply that belong to it."""

    number: int
    """Number of the passage in the prompt, from 1; there may be no such passage."""
    cited: bool
    """Whether the reply cites it, or only repeats its content."""
    support_scores: list[float] = field(default_factory=list)
    """For each sentence, the share of its words that the passage contains, 0 to 1."""

    @property
    def is_supported(self) -> bool:
        """Whether the passage supports every sentence that belongs to it."""
        return all(score >= SUPPORT_THRESHOLD for score in self.support_scores)


def check_citations(reply: str, passages: Sequence[Passage]) -> list[CitationCheck]:
    """Check the passages that a reply cites or repeats, in order of their numbers."""
    checks: dict[int, CitationCheck] = {}
    for sentence, numbers in _sentences(reply):
        scores = [support_score(sentence, passage.text) for passage in passages]
        for number in numbers:
            exists = 0 < number <= len(passages)
            check = checks.setdefault(number, CitationCheck(number, cited=True))
            check.cited = True
            check.support_scores.append(scores[number - 1] if exists else 0.0)
        best = max(scores, default=0.0)
        if not numbers and best >= SUPPORT_THRESHOLD and len(stems(sentence)) >= _MIN_WORDS:
            number = scores.index(best) + 1
            check = checks.setdefault(number, CitationCheck(number, cited=False))
            check.support_scores.append(best)
    return [checks[number] for number in sorted(checks)]


def support_score(sentence: str, passage: str) -> float:
    """Return the share of a sentence's words in a passage, 0 to 1; 0 if it lacks a number."""
    words, passage_words = set(stems(sentence)), set(stems(passage))
    if not words or set(_NUMBER.findall(sentence)) - set(_NUMBER.findall(passage)):
        return 0.0
    return len(words & passage_words) / len(words)


def reply_annotations(
    reply: str,
    passages: Sequence[Passage],
    omitted: int = 0,
    question: str = "",
    readings: Sequence[Reading] = (),
) -> list[Annotation]:
    """Return the annotations of a reply.

    There is one for each passage that belongs to it, for each citation without a passage, for the
    numbers and names that no passage has, and for passages that disagree.

    Args:
        reply: its text.
        passages: retrieved for it; may be empty.
        omitted: number of passages, from the last, that were left out of the prompt.
        question: the question that it answers.
        readings: how well the statements of the passages answer the question.
    """
    read = passages[: len(passages) - omitted]
    annotations = [_annotation(check, read) for check in check_citations(reply, read)]
    if not read:
        return annotations
    if not annotations:
        annotations = [Annotation(PLUGIN, "sources", NO_SUPPORT)]
    if unknown := unknown_facts(reply, question, passages):
        annotations.append(Annotation(PLUGIN, "unknown", _list_facts(unknown)))
    for each in disagreements(readings[: len(read)]):
        values = one_line(" against ".join(each.values), 60)
        annotations.append(
            Annotation(PLUGIN, f"[{each.first}], [{each.second}]", f"{DISAGREE}: {values}")
        )
    if omitted:
        numbers = ", ".join(f"[{number}]" for number in range(len(read) + 1, len(passages) + 1))
        annotations.append(Annotation(PLUGIN, OMITTED, f"{numbers}: the context is too small"))
    return annotations


def _list_facts(facts: Sequence[str]) -> str:
    more = f" and {len(facts) - MAX_NAMED} more" if len(facts) > MAX_NAMED else ""
    return f"{one_line(', '.join(facts[:MAX_NAMED]), 100)}{more}: in no passage"


def _annotation(check: CitationCheck, passages: Sequence[Passage]) -> Annotation:
    name = f"[{check.number}]"
    if not 0 < check.number <= len(passages):
        return Annotation(PLUGIN, name, "there is no such passage")
    verdict = "supported" if check.is_supported else "not supported"
    if not check.cited:
        verdict = "says it, not cited"
    label = one_line(origin_of(passages[check.number - 1]).short_label, 60)
    score = min(check.support_scores)
    return Annotation(PLUGIN, name, f"{label}: {verdict}", score)


def _sentences(reply: str) -> Iterator[tuple[str, list[int]]]:
    """Yield each sentence without its citations, and the numbers it cites; code blocks are skipped.

    A citation between a full stop and the next sentence of the line belongs to the former.
    """
    text = _INLINE_CODE.sub(lambda code: _CITATION.sub(" ", code[0]), _CODE_BLOCK.sub("\n", reply))
    for line in text.splitlines():
        sentence: tuple[str, list[int]] | None = None
        for words in split_sentences(line):
            part = words
            while sentence and (match := _CITATION.match(part)):
                sentence[1].extend(_numbers(match))
                part = part[match.end() :].lstrip(" .,;")
            numbers = [number for match in _CITATION.finditer(part) for number in _numbers(match)]
            claim = _CITATION.sub("", part).strip()
            if numbers or any(map(str.isalnum, claim)):
                if sentence:
                    yield sentence
                sentence = (claim, numbers)
        if sentence:
            yield sentence


def _numbers(match: re.Match[str]) -> list[int]:
    return [int(number) for number in match[1].split(",")]
