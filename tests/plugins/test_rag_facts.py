"""Numbers and names of a reply that no passage has, and passages that disagree."""

from __future__ import annotations

import pytest

from chatlm_rag.reading.reader import Reading
from chatlm_rag.retrieval.citations import reply_annotations
from chatlm_rag.retrieval.facts import Disagreement, disagreements, unknown_facts
from tests.plugins.rag_chats import passage

LEASE = passage("The lease of Ann Lee ends on 31 May 2027. The rent is 1,200 euros.")


@pytest.mark.parametrize(
    ("reply", "unknown"),
    [
        ("The lease ends on 31 May 2027 [1].", []),
        ("Ann Lee pays 1200 euros.", []),
        ("It ends in 2028, says Bob Ray. Rent: 1,300.", ["2028", "1,300", "Bob Ray"]),
        ("Germany won 2 matches in 2014. [1]", ["2", "2014"]),
        ("The lease of Ann Leeds in Graz", ["Ann Leeds", "Graz"]),
        ("Der Vertrag ist nicht auf die Wohnung und endet mit dem 31 Mai 2029.", ["2029"]),
        ("", []),
    ],
)
def test_numbers_and_names_that_no_passage_has_are_found(reply: str, unknown: list[str]) -> None:
    assert unknown_facts(reply, "When does the lease end?", [LEASE]) == unknown


def test_what_the_question_says_is_known() -> None:
    assert unknown_facts("Peter has 7.", "Has Peter 7 cats?", [LEASE]) == []


def reading(statement: str, score: float = 3.0) -> Reading:
    return Reading((statement,), (score,))


def test_passages_that_give_other_numbers_for_the_same_are_found() -> None:
    old, new = reading("The rent is 1,200 euros."), reading("The rent is 1,350 euros.")
    assert disagreements([old, reading("Bread needs 20 minutes."), new]) == [
        Disagreement(1, 3, ("1200", "1350"))
    ]
    assert disagreements([old, reading("The rent is 1200 euros.")]) == []
    assert disagreements([old, reading("The rent is 1,350 euros.", -2.0)]) == []
    assert disagreements([old, reading("The deposit was 2,400 francs.")]) == []


def test_they_are_named_under_the_reply() -> None:
    other = passage("The rent is 1,350 euros.")
    readings = [reading("The rent is 1,200 euros."), reading("The rent is 1,350 euros.")]
    found = reply_annotations("It is 99 euros [1].", [LEASE, other], 0, "Rent?", readings)
    labels = {label.name: label.value for label in found}
    assert labels["unknown"] == "99: in no passage"
    assert labels["[1], [2]"] == "the passages disagree: 1200 against 1350"


def test_a_citation_is_marked_where_nothing_was_found() -> None:
    (label,) = reply_annotations("Germany won 2 matches in 2014. [1]", [])
    assert (label.name, label.value) == ("[1]", "there is no such passage")
    assert reply_annotations("Germany won.", []) == []
