"""Reads test questions and which documents answer them, in the files of the BEIR collections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from chatlm import UsageError

Judgements = dict[str, dict[str, int]]
"""By question and document: 0 for one that does not answer, more the better it does."""

_QUERIES = 'Each line is one question: {"_id": "1", "text": "What …?"}'
_QRELS = "Each line is a question's id, a document's id and a whole number, with tabs between."


def read_questions(path: Path) -> dict[str, str]:
    """The questions of a `queries.jsonl`, by their ids.

    Raises:
        UsageError: it cannot be read; the message has the line.
    """
    questions: dict[str, str] = {}
    for number, line in _lines(path):
        try:
            table = json.loads(line)
            name, text = table["_id"], table["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"{path}, line {number} is no question.", hint=_QUERIES) from error
        if not isinstance(name, str) or not isinstance(text, str):
            raise UsageError(f"{path}, line {number}: texts belong in quotes.", hint=_QUERIES)
        questions[name] = text
    return questions


def read_judgements(path: Path) -> Judgements:
    """The judgements of a `qrels.tsv`; a first line that names the columns is passed by.

    Raises:
        UsageError: it cannot be read; the message has the line.
    """
    judgements: Judgements = {}
    for number, line in _lines(path):
        fields = line.split("\t")
        try:
            question, document, grade = fields
            judgements.setdefault(question, {})[document] = int(grade)
            float(int(grade))  # a gain is reckoned with as one
        except (ValueError, OverflowError) as error:
            if number == 1 and len(fields) == 3:
                continue
            raise UsageError(f"{path}, line {number} is no judgement.", hint=_QRELS) from error
    return judgements


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8.", hint="Save it as UTF-8.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")
