"""Sentences end where a reader sees them end, in several languages."""

from __future__ import annotations

import pytest

from chatlm_rag.reading.sentences import guess_language, split_sentences
from chatlm_rag.reading.statements import statements
from chatlm_rag.retrieval.citations import check_citations
from tests.plugins.rag_chats import passage


@pytest.mark.parametrize(
    "sentences",
    [
        ("The match is on Nov. 12 in Paris.", "It starts at 5 p.m.", "Bring a coat!"),
        ("He won the U.S. Open in 1999.", "He is No. 1 in the world.", "J. K. Brown wrote it."),
        ("Dr. Smith works at Apple Inc.", "It is big.", "See Fig. 3, i.e. the map, for more."),
        ("Am 3. Oktober war es so weit.", "Dr. Müller kam z. B. um fünf.", "Das ist ein Ende."),
        ("Il habite av. Foch.", "Le train est en retard.", "La gare est loin !"),
        ("El Sr. López vive en la Av. Reforma.", "Es una calle larga.", "Hola."),
        ("Он пришёл в 5 ч. вечера.", "Это не город."),
        ("今天天气很好。", "我们去公园吧！", "你觉得怎么样？"),
    ],
)
def test_sentences_end_at_no_abbreviation(sentences: tuple[str, ...]) -> None:
    assert split_sentences(" ".join(sentences)) == list(sentences)


def test_statements_are_whole_sentences() -> None:
    text = "The U.S. Open is on Nov. 12.\nJ. K. Brown is No. 1 there. It will rain."
    assert list(statements(text)) == [
        "The U.S. Open is on Nov. 12.", "J. K. Brown is No. 1 there.", "It will rain.",
    ]  # fmt: skip


def test_the_language_is_that_of_the_frequent_words() -> None:
    assert guess_language("Das ist nicht die Antwort auf eine Frage.") == "de"
    assert guess_language("12 345") == "en"
    assert guess_language("") == "en"
    assert split_sentences("") == []
    assert split_sentences(" \n\n ") == []


def test_a_citation_belongs_to_the_whole_sentence() -> None:
    source = passage("The final of the U.S. Open is on Sept. 12 in New York.")
    reply = "The final of the U.S. Open is on Sept. 12 in New York. [1]"
    (check,) = check_citations(reply, [source])
    assert check.is_supported
    assert len(check.support_scores) == 1
