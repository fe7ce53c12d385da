"""Citations of a reply, and whether the passages support it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from chatlm_rag.retrieval import citations
from chatlm_rag.retrieval.citations import (
    NO_SUPPORT,
    SUPPORT_THRESHOLD,
    check_citations,
    reply_annotations,
    support_score,
)
from tests.plugins.rag_chats import passage

PETS = passage("Cats are allowed in the flat. Dogs need the owner's consent.", place="House > Pets")
BOILER = passage("The boiler is serviced each October; error E17 means too little water.")
BOTH = [PETS, BOILER]


def annotations_of(reply: str) -> list[tuple[str, str]]:
    return [(label.name, label.value) for label in reply_annotations(reply, BOTH)]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Cats are allowed in the flat [1].", [("[1]", "supported")]),
        ("Cats are allowed in the flat. [1]", [("[1]", "supported")]),
        (
            "Dogs need consent of the owner [1, 2].",
            [("[1]", "supported"), ("[2]", "not supported")],
        ),
        ("[2] The boiler is serviced in October.", [("[2]", "supported")]),
        ("Snakes may live in the garden [1].", [("[1]", "not supported")]),
        ("The boiler is serviced in October.", [("[2]", "says it, not cited")]),
        (
            "Error E18 means too little water [2].",
            [("[2]", "not supported"), ("unknown", "in no passage")],
        ),
        ("Cats are allowed in the flat [1]. Parrots sing loudly [1].", [("[1]", "not supported")]),
        ("See [7].", [("[7]", "there is no such passage")]),
        ("See [0].", [("[0]", "there is no such passage")]),
    ],
)
def test_each_citation_is_checked_against_its_passage(
    reply: str, expected: list[tuple[str, str]]
) -> None:
    assert [(name, value.rpartition(": ")[2]) for name, value in annotations_of(reply)] == expected


@pytest.mark.parametrize(
    "reply",
    [
        "Yes.",
        "",
        "I do not know that.",
        "```\nboiler[1] = october\n```",
        "See [here](1).",
        "[1](u)",
    ],
)
def test_a_reply_without_support_says_so(reply: str) -> None:
    assert annotations_of(reply) == [("sources", NO_SUPPORT)]


def test_a_number_in_inline_code_is_not_a_citation() -> None:
    assert annotations_of("`rows[1]` the boiler is serviced each October")[0][0] == "[2]"


def test_an_annotation_names_file_heading_and_score() -> None:
    (label,) = reply_annotations("Cats are allowed in gardens [1].", BOTH)
    assert label.value == "house.md, Pets: supported"
    assert label.score == pytest.approx(2 / 3)


def test_omitted_passages_are_reported_and_cannot_be_cited() -> None:
    found = reply_annotations("The boiler is serviced each October [2].", BOTH, omitted=1)
    assert [(label.name, label.value) for label in found] == [
        ("[2]", "there is no such passage"),
        ("not read", "[2]: the context is too small"),
    ]


def test_a_long_reply_is_checked_quickly() -> None:
    assert len(check_citations("[1] " * 5000 + "x " * 5000, BOTH)) == 1


def test_support_is_right_for_statements_built_from_questions_and_answers(
    shared_data: Path,
) -> None:
    folder = shared_data / "retrieval" / "xquad_en"
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
    texts = {row["_id"]: row["text"] for row in rows}
    rows = [json.loads(line) for line in (folder / "queries.jsonl").open(encoding="utf-8")]
    questions = {row["_id"]: row["text"] for row in rows}
    lines = (folder / "qrels.tsv").read_text().splitlines()[1:]
    right = dict(line.split("\t")[:2] for line in lines)
    answers = json.loads((folder / "answers.json").read_text())
    draw = random.Random(0)
    kept = wrong = 0
    asked = draw.sample(sorted(right), 300)
    for name in asked:
        statement = f"{questions[name].rstrip('?')} {answers[name][0]}"
        article, _, number = right[name].rpartition("-")
        near = [other for other in texts if other.startswith(f"{article}-")]
        near.remove(f"{article}-{number}")
        kept += support_score(statement, texts[right[name]]) >= SUPPORT_THRESHOLD
        wrong += support_score(statement, texts[draw.choice(near)]) >= SUPPORT_THRESHOLD
    assert kept / len(asked) > 0.88
    assert round(wrong * 100 / len(asked)) <= 1
    assert citations.__doc__ is not None
    assert f"{kept * 100 // len(asked)} %" in citations.__doc__
