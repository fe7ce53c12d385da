"""The reader: its windows, what it reads, what kind of answer a question asks for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from chatlm import ChatlmError
from chatlm_rag.reading import reader as reading
from chatlm_rag.reading.answer_scores import answer_score
from chatlm_rag.reading.answer_types import expected_type, type_evidence
from chatlm_rag.reading.reader import Reader, reading_title
from chatlm_rag.reading.windows import MAX_TOKENS, WindowLayout
from tests import models

MOST_BYTES = 2_000_000

HOUSE = (
    "The association has a president. Its presidents are listed in the hall. In 2019 the members "
    "elected Maria Lopez as president. She lives in Graz. The boiler is in the cellar. Nobody "
    "asked when the boiler was serviced. Mr Hahn serviced it on 12 October. He charged 140 euros."
)


@pytest.fixture(scope="module")
def shipped() -> Reader:
    return Reader(models.embedder_model())


@pytest.fixture(scope="module")
def layout() -> WindowLayout:
    return WindowLayout(Tokenizer.from_file(str(models.embedder_model() / "tokenizer.json")))


@pytest.mark.parametrize("length", [1, 7, 30, 90, 400])
def test_every_statement_is_in_a_window_that_is_short_enough(
    layout: WindowLayout, length: int
) -> None:
    statements = [f"{number} " + "word " * length for number in range(9)]
    windows = layout.windows("What is it? " * 40, "A title " * 30, statements)
    assert {number for window in windows for number, _, _ in window.spans} == set(range(9))
    for window in windows:
        assert len(window.ids) == len(window.types) <= MAX_TOKENS
        assert all(0 < start < end < len(window.ids) for _, start, end in window.spans)
        assert window.ids[-1] == window.ids[window.types.index(1) - 1]  # [SEP]


def test_control_tokens_in_documents_are_text(layout: WindowLayout) -> None:
    (window,) = layout.windows("What?", "", ["[SEP] [CLS] [PAD] [MASK]"])
    assert [window.ids.count(number) for number in (0, 101, 102, 103)] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who is the president of the association?", "elected Maria Lopez"),
        ("When was the boiler serviced?", "12 October"),
        ("How much did Mr Hahn charge?", "140 euros"),
        ("Where is the boiler?", "in the cellar"),
    ],
)
def test_the_statement_that_answers_beats_those_that_repeat_the_question(
    shipped: Reader, question: str, answer: str
) -> None:
    (found,) = shipped.read(question, [("House", HOUSE)])
    best = max(
        zip(found.scores, found.statements, strict=True),
        key=lambda pair: answer_score(question, pair[1], pair[0], 1.0),
    )
    assert answer in best[1]
    (none,) = shipped.read("How long is the garden?", [("House", HOUSE)])
    assert none.best < found.best


def test_what_is_read_does_not_depend_on_the_other_passages(shipped: Reader) -> None:
    question = "When was the boiler serviced? "
    texts = [("", HOUSE), ("", ""), ("", "x" * 3000), ("", "Serviced in May.")]
    together = shipped.read(question, texts)
    assert [len(each.statements) for each in together] == [8, 0, 1, 1]
    assert together[1].best == float("-inf")
    alone = [shipped.read(question.strip(), [text])[0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=0.15)  # bfloat16 where it is used


def test_any_text_is_read(shipped: Reader) -> None:
    for text in ("\x00\ud800", "数学很有趣。" * 90, "a" * 20_000, "[CLS]"):
        assert len(shipped.read(text, [(text, text)])) == 1


def test_other_weights_of_the_encoder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(reading.FOLDER, folder)
    card = json.loads((folder / reading.CARD_FILE).read_bytes())
    (folder / reading.CARD_FILE).write_text(json.dumps(card | {"fingerprint": "0"}))
    with pytest.raises(ChatlmError, match="other weights of all-minilm-l6-v2"):
        Reader(models.embedder_model(), folder).read("Who?", [("", "Maria.")])


def test_the_shipped_reader_is_small_and_has_a_card() -> None:
    assert sum(path.stat().st_size for path in reading.FOLDER.iterdir()) <= MOST_BYTES
    card = (reading.FOLDER / "README.md").read_text(encoding="utf-8")
    assert {"Data", "Licence", "Command", "Scores"} <= {
        line.lstrip("# ") for line in card.splitlines() if line.startswith("#")
    }


def test_a_page_is_no_title() -> None:
    assert reading_title("House > Pets") == "House Pets"
    assert reading_title("page 12") == reading_title("page 3, OCR 97%") == ""


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("When does the lease end?", "time"),
        ("In what year was it built?", "time"),
        ("how many rooms are there", "number"),
        ("Who pays?", "person"),
        ("Where is the key?", "place"),
        ("Why is it closed?", None),
        ("Wann endet der Vertrag?", None),
    ],
)
def test_what_a_question_asks_for(question: str, kind: str | None) -> None:
    assert expected_type(question) == kind


@pytest.mark.parametrize(
    ("question", "statement", "evidence"),
    [
        ("When does the lease end?", "It ends on 31 May.", 1),
        ("When does the lease end?", "The lease has an end.", -1),
        ("When did the 2014 games begin?", "The 2014 games had a beginning.", -1),
        ("How many cats are there?", "There are three cats.", 1),
        ("How many cats are there?", "Cats are there.", -1),
        ("Who is the president of the NFL?", "NFL presidents are elected.", -1),
        ("Who is the president of the NFL?", "The president is Ann Lee.", 1),
        ("Where is the key?", "The key is under the mat.", 1),
        ("Why is it closed?", "It rains.", 0),
    ],
)
def test_whether_a_statement_names_it(question: str, statement: str, evidence: int) -> None:
    assert type_evidence(question, statement) == evidence
