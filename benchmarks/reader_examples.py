"""Examples to train the reader: passages split into statements, and which of them answer."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.question_sets import QuestionedPassage, read_squad
from chatlm_rag.reading.statements import statements

DEVELOPMENT_ARTICLES = 3
"""Articles of SQuAD 2.0 that are kept for development."""

HARD_NEGATIVES = 5
"""A negative is drawn from this many of the best other passages by BM25."""

_ARTIFACTS = {
    "-lrb-": "(", "-rrb-": ")", "-lsb-": "[", "-rsb-": "]", "``": '"', "''": '"',
}  # fmt: skip
"""Tokens of the Penn Treebank in the collection of Du et al."""


@dataclass(frozen=True)
class Example:
    """A question, a passage, and the statements of it that answer the question."""

    question: str
    title: str
    statements: tuple[str, ...]
    positives: frozenset[int]
    """Numbers of the statements that answer; empty if none does."""
    answers: tuple[str, ...] = ()


def development_articles(path: Path) -> frozenset[str]:
    """Return the articles of a file in SQuAD's format that are kept for development."""
    articles = sorted({passage.document for passage in read_squad(path)})
    return frozenset(articles[:: len(articles) // DEVELOPMENT_ARTICLES][:DEVELOPMENT_ARTICLES])


def squad_examples(path: Path, keep: Callable[[str], bool] = lambda _: True) -> Iterator[Example]:
    """Yield the examples of a file in SQuAD's format, of the documents to keep."""
    for passage in read_squad(path):
        if keep(passage.document):
            yield from passage_examples(passage)


def passage_examples(passage: QuestionedPassage) -> Iterator[Example]:
    """Yield an example for each question whose answer is within one statement, or that has none."""
    parts = tuple(statements(passage.text))
    begins, at = [], 0
    for part in parts:
        at = max(passage.text.find(part[:30], at), at)
        begins.append(at)
    title = passage.document.replace("_", " ")
    for question in passage.questions:
        positives = set()
        for answer, start in zip(question.answers, question.starts, strict=True):
            wanted = " ".join(answer.split())
            holds = [n for n, part in enumerate(parts) if wanted in part]
            if holds:
                positives.add(min(holds, key=lambda n: abs(begins[n] + len(parts[n]) / 2 - start)))
        if positives or not question.answers:
            yield Example(question.text, title, parts, frozenset(positives), question.answers)


def selqa_examples(path: Path) -> Iterator[Example]:
    """Yield the examples of a file of SelQA, whose passages are sections."""
    for row in json.loads(path.read_text(encoding="utf-8")):
        yield Example(
            row["question"],
            f"{row['article'].replace('_', ' ')} {row['section']}",
            tuple(row["candidates"]),
            frozenset(row["answers"]),
        )


def qed_examples(path: Path) -> Iterator[Example]:
    """Yield the examples of QED: questions asked of a search engine."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text, starts = row["paragraph_text"], [*row["sentence_starts"], len(row["paragraph_text"])]
        spans = [each for group in row["original_nq_answers"] for each in group]
        positives = {
            number
            for number, (start, end) in enumerate(itertools.pairwise(starts))
            if any(start <= span["start"] < end for span in spans)
        }
        parts = [text[a:b].strip() for a, b in itertools.pairwise(starts)]
        if positives and all(parts):
            yield Example(
                row["question_text"],
                row["title_text"],
                tuple(re.sub(r" ([.,;:)'])", r"\1", part) for part in parts),
                frozenset(positives),
                tuple(span["string"] for span in spans),
            )


def sentence_pair_examples(source: Path, target: Path, per_passage: int = 6) -> Iterator[Example]:
    """Yield examples of Du et al.'s sentences and questions.

    Only sentences that answer a question are given, in the order of their articles; a passage is
    made of neighbours.
    """
    sentences = [_plain(line) for line in source.read_text(encoding="utf-8").splitlines()]
    questions = [_plain(line) for line in target.read_text(encoding="utf-8").splitlines()]
    distinct = list(dict.fromkeys(sentences))
    number_of = {sentence: number for number, sentence in enumerate(distinct)}
    for sentence, question in zip(sentences, questions, strict=True):
        number = number_of[sentence]
        start = number - number % per_passage
        parts = tuple(distinct[start : start + per_passage])
        yield Example(question, "", parts, frozenset({number - start}))


def _plain(line: str) -> str:
    words = [_ARTIFACTS.get(word, word) for word in line.split()]
    return re.sub(r" ([.,;:)\]?!'])|(?<=[(\[]) ", lambda match: match[1] or "", " ".join(words))


def with_hard_negatives(examples: Sequence[Example], seed: int = 0) -> list[Example]:
    """Return the examples, and for each a passage that does not answer though its words are close.

    The passages are those of the other examples.
    """
    from bm25s import BM25, tokenize

    passages = list(dict.fromkeys((each.title, each.statements) for each in examples))
    texts = [" ".join([title, *parts]) for title, parts in passages]
    index = BM25()
    index.index(tokenize(texts, show_progress=False), show_progress=False)
    asked = tokenize([each.question for each in examples], show_progress=False)
    found, _ = index.retrieve(asked, k=min(HARD_NEGATIVES + 3, len(texts)), show_progress=False)
    draw = random.Random(seed)  # noqa: S311 - no secret
    result = list(examples)
    for example, rows in zip(examples, found, strict=True):
        others = [
            int(row)
            for row in rows
            if passages[row][1] != example.statements
            and not any(answer.lower() in texts[row].lower() for answer in example.answers)
        ][:HARD_NEGATIVES]
        if others:
            title, parts = passages[draw.choice(others)]
            result.append(replace(example, title=title, statements=parts, positives=frozenset()))
    return result


def sample(examples: Iterable[Example], count: int, seed: int = 0) -> list[Example]:
    """Return at most `count` of the examples, drawn at random."""
    every = list(examples)
    return random.Random(seed).sample(every, min(count, len(every)))  # noqa: S311 - no secret


def training_examples(folder: Path) -> tuple[list[Example], list[Example]]:
    """Return the examples to train with, and those for development.

    Args:
        folder: with the collections, see `benchmarks.question_sets`.
    """
    squad = folder / "squad2_half.json"
    kept = development_articles(squad)
    sets = [
        list(squad_examples(squad, lambda document: document not in kept)),
        list(selqa_examples(folder / "selqa_test.json")),
        list(qed_examples(folder / "qed.jsonl")),
        sample(sentence_pair_examples(folder / "nqg_src.txt", folder / "nqg_tgt.txt"), 6000),
        sample(squad_examples(folder / "policy_dev.json"), 1500),
    ]
    return (
        [example for each in sets for example in with_hard_negatives(each)],
        list(squad_examples(squad, lambda document: document in kept)),
    )
