"""Collections for `benchmarks.grounding`: documents with passages left out, and questions.

A part of the passages is left out of the documents. Questions about the others are answerable;
questions about those left out are not, and yet on the topic. A question counts as unanswerable only
if none of its answers occurs in what remains of its document.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path

from benchmarks.question_sets import Question, QuestionedPassage, read_squad

LEFT_OUT = 0.4
"""Share of the passages that are left out."""

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_WORD = re.compile(r"[^\w%$€£]+")


@dataclass(frozen=True)
class Asked:
    """A question to a collection."""

    text: str
    answers: tuple[str, ...]
    document: str
    """The document that answers it, or that would have if a passage had not been left out."""


@dataclass(frozen=True)
class Collection:
    """Documents, and questions that they answer or do not."""

    name: str
    kind: str
    documents: dict[str, str]
    answerable: tuple[Asked, ...]
    unanswerable: tuple[Asked, ...]


def load_collection(
    name: str, kind: str, passages: Iterable[QuestionedPassage], documents: int, questions: int
) -> Collection:
    """Build a collection from passages.

    Args:
        name: of the collection.
        kind: what the documents are, in words.
        passages: in the order of their documents.
        documents: number of documents to take, evenly spread.
        questions: number of questions of each kind to take, evenly spread.
    """
    grouped = [
        (document, list(group))
        for document, group in groupby(_without_repeats(passages), lambda each: each.document)
    ]
    step = max(len(grouped) / documents, 1)
    chosen = [grouped[int(at * step)] for at in range(min(documents, len(grouped)))]
    texts: dict[str, str] = {}
    answerable: list[Asked] = []
    unanswerable: list[Asked] = []
    for document, group in chosen:
        parts = _paragraphs(group[0]) if len(group) == 1 else group
        kept = [each for each in parts if not _is_left_out(each.text)]
        if kept:
            texts[document] = "\n\n".join(each.text.strip() for each in kept)
        remains = normalize(texts.get(document, ""))
        for each in parts:
            for question in each.questions:
                asked = Asked(question.text, question.answers, document)
                if not question.answers:
                    unanswerable.append(asked)
                elif each in kept:
                    answerable.append(asked)
                elif not any(holds(remains, answer) for answer in question.answers):
                    unanswerable.append(asked)
    return Collection(
        name, kind, texts, _spread(answerable, questions), _spread(unanswerable, questions)
    )


def xquad_passages(folder: Path, without: frozenset[str]) -> list[QuestionedPassage]:
    """Return the passages of XQuAD in English, without those of some articles.

    Args:
        folder: in BEIR's format, with `answers.json`.
        without: texts of passages; an article with one of them is left out.
    """
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    asked: dict[str, list[Question]] = {}
    texts = {
        row["_id"]: row["text"]
        for row in map(json.loads, (folder / "queries.jsonl").open(encoding="utf-8"))
    }
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        question, document, _ = line.split("\t")
        asked.setdefault(document, []).append(Question(texts[question], tuple(answers[question])))
    known = {row["title"] for row in rows if row["text"] in without}
    return [
        QuestionedPassage(row["title"], row["text"], tuple(asked.get(row["_id"], ())))
        for row in rows
        if row["title"] not in known
    ]


def normalize(text: str) -> str:
    """Return a text in lower case without articles and punctuation, as SQuAD compares answers."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_ARTICLE.sub(" ", _NO_WORD.sub(" ", plain)).split())


def holds(normalized: str, answer: str) -> bool:
    """Return whether a normalized text contains an answer as whole words."""
    wanted = normalize(answer)
    return bool(wanted) and f" {wanted} " in f" {normalized} "


def share_of_words(normalized: str, answer: str) -> float:
    """Return the share of an answer's words that a normalized text contains, 0 to 1."""
    words, wanted = set(normalized.split()), normalize(answer).split()
    return sum(word in words for word in wanted) / len(wanted) if wanted else 0.0


def read_passages(path: Path, *, apart: bool = False) -> list[QuestionedPassage]:
    """Read a file in SQuAD's format; with `apart`, each passage is a document of its own."""
    passages = list(read_squad(path))
    if not apart:
        return passages
    return [
        QuestionedPassage(f"{each.document} {number}", each.text, each.questions)
        for number, each in enumerate(passages)
    ]


def _without_repeats(passages: Iterable[QuestionedPassage]) -> list[QuestionedPassage]:
    return list({each.text: each for each in passages}.values())


def _paragraphs(passage: QuestionedPassage) -> list[QuestionedPassage]:
    """Split a long passage at blank lines, each with the questions whose answer it has."""
    spans = [match.span() for match in re.finditer(r"(?:(?!\n\s*\n).)+", passage.text, re.DOTALL)]
    return [
        QuestionedPassage(
            passage.document,
            passage.text[start:end],
            tuple(
                question
                for question in passage.questions
                if question.starts and start <= question.starts[0] < end
            ),
        )
        for start, end in spans
        if passage.text[start:end].strip()
    ]


def _is_left_out(text: str) -> bool:
    return int(sha256(text.encode()).hexdigest()[:8], 16) / 16**8 < LEFT_OUT


def _spread(asked: Sequence[Asked], count: int) -> tuple[Asked, ...]:
    distinct = list({each.text: each for each in asked}.values())
    step = max(len(distinct) / count, 1)
    return tuple(distinct[int(at * step)] for at in range(min(count, len(distinct))))
