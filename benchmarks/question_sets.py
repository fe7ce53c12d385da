"""Read question-answering collections: passages with their questions and answers.

Files in SQuAD's format are read as published. Those that the benchmarks use, and their licences:

- new_wiki, reddit and amazon of SQuADShifts (Miller et al. 2020, CC BY 4.0,
  github.com/modestyachts/squadshifts-website)
- COVID-QA (Möller et al. 2020, Apache-2.0, github.com/deepset-ai/COVID-QA)
- PolicyQA (Ahmad et al. 2020, MIT, github.com/wasiahmad/PolicyQA)
- SQuAD 2.0 (Rajpurkar et al. 2018, CC BY-SA 4.0), the half of its development set in
  github.com/chrischute/squad
- SelQA (Jurczyk et al. 2016, Apache-2.0, github.com/emorynlp/selqa)
- QED (Lamm et al. 2021, CC BY-SA 3.0, github.com/google-research-datasets/QED)
- XQuAD (Artetxe et al. 2020, CC BY-SA 4.0), in `shared/data`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Question:
    """A question about a passage."""

    text: str
    answers: tuple[str, ...]
    """Accepted answers, each a span of the passage; none if the passage does not answer it."""
    starts: tuple[int, ...] = ()
    """Where each answer begins in the passage."""


@dataclass(frozen=True)
class QuestionedPassage:
    """A passage of a document, and questions about it."""

    document: str
    text: str
    questions: tuple[Question, ...]


def read_squad(path: Path) -> Iterator[QuestionedPassage]:
    """Yield the passages of a file in SQuAD's format.

    Raises:
        OSError, ValueError, KeyError: it cannot be read.
    """
    for number, article in enumerate(json.loads(path.read_text(encoding="utf-8"))["data"]):
        document = str(article.get("title") or f"{path.stem} {number}")
        for paragraph in article["paragraphs"]:
            yield QuestionedPassage(
                document, paragraph["context"], tuple(map(_squad_question, paragraph["qas"]))
            )


def _squad_question(row: dict[str, Any]) -> Question:
    answers = [] if row.get("is_impossible") else row["answers"]
    distinct = {answer["text"]: int(answer["answer_start"]) for answer in answers}
    return Question(" ".join(row["question"].split()), tuple(distinct), tuple(distinct.values()))
