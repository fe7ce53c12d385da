"""The threshold of an index: from the settings, or fitted to the user's own questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chatlm import ChatlmError, UsageError
from chatlm_rag.commands import rag
from chatlm_rag.index import builder
from chatlm_rag.index.folder import find_index
from chatlm_rag.retrieval import calibration, grounding
from chatlm_rag.settings import DEFAULT_THRESHOLD
from tests.plugins.rag_chats import CATS, NAME, house
from tests.plugins.ui import RememberingWork

ANSWERABLE = [
    "Are cats allowed in the flat?",
    "May I keep a cat?",
    "What do dogs need?",
    "Whose consent do dogs need?",
    "When is the boiler serviced?",
    "In which month is the boiler serviced?",
    "What does error E17 mean?",
    "At how many degrees is bread baked?",
    "How long does the bread need steam?",
    "What pulls in the same direction at spring tide?",
]
OTHERS = ["Who won the chess championship?", "How tall is the Eiffel tower?", "What is a monad?"]


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[Path]:
    with house(tmp_path / "home") as folder:
        yield folder


def calibrate(*arguments: str) -> Result:
    return CliRunner().invoke(rag, ["calibrate", *arguments], catch_exceptions=False)


def test_a_threshold_keeps_most_and_refuses_most() -> None:
    yes = [number / 20 for number in range(10, 20)]
    fitted = calibration.fit(yes, [0.1, 0.3, 0.45, 0.9])
    assert (fitted.threshold, fitted.kept_rate, fitted.refused_rate) == (0.5, 1, 0.75)
    assert calibration.fit(yes, []).refused_rate is None
    with pytest.raises(UsageError, match="cannot be fitted to 3 questions"):
        calibration.fit(yes[:3], [])


@pytest.mark.usefixtures("documents")
def test_the_command_fits_the_threshold_of_an_index(tmp_path: Path) -> None:
    asked, others = tmp_path / "asked.txt", tmp_path / "others.txt"
    asked.write_text("\n\n".join(ANSWERABLE), encoding="utf-8")
    others.write_text("\n".join(OTHERS), encoding="utf-8")
    done = calibrate(NAME, "--questions", str(asked), "--unanswerable", str(others), "--json")
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert (table["answerable"], table["unanswerable"]) == (10, 3)
    assert table["kept"] >= 0.9
    assert table["refused"] == 1
    assert calibration.threshold_of(NAME) == table["threshold"] != DEFAULT_THRESHOLD
    assert grounding.search_index(NAME, CATS).threshold == table["threshold"]
    assert calibration.describe_threshold(NAME).endswith("calibrated for house")
    builder.rebuild(NAME, RememberingWork(cancelled=False))
    assert calibration.threshold_of(NAME) == table["threshold"]
    assert "plugins.rag.threshold" in calibrate(NAME, "--reset").stdout
    assert calibration.threshold_of(NAME) == DEFAULT_THRESHOLD


@pytest.mark.usefixtures("documents")
def test_the_setting_decides_what_is_relevant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLM_RAG_THRESHOLD", "1")
    assert not grounding.search_index(NAME, CATS).relevant
    monkeypatch.setenv("CHATLM_RAG_THRESHOLD", "0")
    assert grounding.search_index(NAME, OTHERS[0]).relevant


@pytest.mark.usefixtures("documents")
def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    empty, asked = tmp_path / "empty.txt", tmp_path / "asked.txt"
    empty.write_text("\n \n")
    asked.write_text("\n".join(ANSWERABLE))
    with pytest.raises(UsageError, match="no questions to fit") as refused:
        calibrate(NAME)
    assert refused.value.hint == "Name a file: --questions FILE"
    with pytest.raises(UsageError, match="has no question"):
        calibrate(NAME, "--questions", str(empty))
    with pytest.raises(UsageError, match=r"none\.txt cannot be read"):
        calibrate(NAME, "--questions", str(tmp_path / "none.txt"))
    with pytest.raises(UsageError, match="comes with chatlm and cannot be changed"):
        calibrate("manual", "--questions", str(asked))


@pytest.mark.usefixtures("documents")
def test_a_damaged_calibration_is_named() -> None:
    path = find_index(NAME).path / calibration.CALIBRATION_FILE
    for text in ("", "[]", '{"threshold": 7}', '{"threshold": null}'):
        path.write_text(text)
        with pytest.raises(ChatlmError, match="threshold of the index house cannot be read"):
            calibration.threshold_of(NAME)
    assert calibrate(NAME, "--reset").exit_code == 0
    assert calibration.threshold_of(NAME) == DEFAULT_THRESHOLD
