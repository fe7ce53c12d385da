"""`chatlm emotion …` for users and scripts, with a classifier trained on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import chatlm
from chatlm import ChatlmError, Config, UsageError
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm_emotion import card
from chatlm_emotion import card as card_module
from chatlm_emotion.commands import emotion

TOPICS = {
    "billing": "invoice charge refund price bill payment",
    "delivery": "parcel courier shipped late address package",
    "login": "password account locked reset username signin",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "topics.jsonl"
    rows = [
        {"text": f"about my {word} number {number}", "label": topic}
        for topic, words in TOPICS.items()
        for word in words.split()
        for number in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def topics(home: Path, data: Path) -> Path:
    succeed("train", "topics", "--data", str(data), "--method", "baseline", "--attribute", "topic")
    return home / "classifiers" / "topics"


def run(*words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(emotion, words, input=stdin)


def succeed(*words: str, stdin: str = "") -> Result:
    done = run(*words, stdin=stdin)
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def table(*words: str, stdin: str = "") -> Any:
    return json.loads(succeed(*words, "--json", stdin=stdin).stdout)


def fail(*words: str, stdin: str = "") -> ChatlmError:
    done = run(*words, stdin=stdin)
    assert isinstance(done.exception, ChatlmError), (done.output, done.exception)
    return done.exception


def test_trained_used_measured_removed(topics: Path, data: Path, tmp_path: Path) -> None:
    said = succeed("classify", "my password is locked", "--with", "topics").stdout
    assert said.startswith("login (")
    assert "billing" in said
    assert fail("use", "topicz").hint == "Did you mean topics?"
    assert "topic by topics" in succeed("use", "topics").stdout
    listed = {row["name"]: row for row in table("list")}
    assert listed["topics"]["active"]
    assert listed["topics"]["labels"] == sorted(TOPICS)
    assert "▸ topics" in succeed("list").stdout
    rows = table("classify", stdin="where is my parcel\n\nrefund my payment\n")
    assert [row["label"] for row in rows] == ["delivery", "billing"]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)

    picture = tmp_path / "confusion.png"
    found = table("eval", str(data), "--picture", str(picture))
    assert {"accuracy", "macro_f1", "ece"} <= found.keys()
    assert found["accuracy"] > 0.95
    assert picture.read_bytes().startswith(b"\x89PNG")
    output = succeed("eval", str(data)).stdout
    for part in ("accuracy", "macro-F1", "calibration error", "precision", "ms per text"):
        assert part in output
    shown = succeed("show", "topics").stdout
    assert "--method baseline" in shown
    assert str(data.parent) not in (topics / "card.json").read_text(), "no folder of this machine"
    succeed("remove", "topics", "--yes")
    assert not topics.exists()


def test_texts_without_labels_are_measured_too(topics: Path, tmp_path: Path) -> None:
    file = tmp_path / "neutral.jsonl"
    file.write_text('{"text": "the sky", "label": null}\n{"text": "my parcel", "label": null}\n')
    found = table("eval", str(file), "--with", "topics")
    assert (found["texts"], found["without_label"]) == (0, 2)
    assert "accuracy" not in found
    output = succeed("eval", str(file), "--with", "topics").stdout
    assert "Without a label: 2 texts" in output
    assert "accuracy" not in output
    refused = fail("eval", str(file), "--with", "topics", "--picture", str(tmp_path / "a.png"))
    assert "nothing to plot" in refused.message
    file.write_text("\n")
    assert "neutral.jsonl" in fail("eval", str(file), "--with", "topics").message


def test_texts_of_a_file(topics: Path, data: Path) -> None:
    rows = table("classify", str(data), "--with", "topics")
    assert len(rows) == 72
    assert "Standard input has no text" in fail("classify", "--with", "topics", stdin="\n").message


def test_wrong_options_are_refused_before_any_work(
    topics: Path, data: Path, tmp_path: Path
) -> None:
    with_data = ("--data", str(data), "--method", "baseline")
    assert "is already a classifier topics" in fail("train", "topics", *with_data).message
    assert "cannot be called" in fail("train", "A/b", *with_data).message
    assert (
        "--attribute cannot be"
        in fail("train", "x", *with_data, "--attribute", "two words").message
    )
    assert "threshold must be" in fail("train", "x", *with_data, "--threshold", "2").message
    baseline = fail("train", "x", *with_data, "--method", "baseline", "--teacher", "topics")
    assert "baseline cannot learn from a teacher" in baseline.message
    no_teacher = fail("train", "x", "--data", str(data), "--teacher", "gone")
    assert "no classifier 'gone'" in no_teacher.message
    assert "ngrams must be" in fail("train", "x", *with_data, "--ngrams", "0").message
    assert "cannot be read" in fail("train", "x", "--data", str(tmp_path / "gone")).message
    assert "comes with chatlm" in fail("remove", card_module.DEFAULT_CLASSIFIER).message
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a", "label": "weather"}\n')
    assert "has no label 'weather'" in fail("eval", str(other), "--with", "topics").message
    no_picture = fail("eval", str(data), "--with", "topics", "--picture", "a.txt")
    assert "not an image file" in no_picture.message
    left = {path.name for path in topics.parent.iterdir()}
    assert left == {"topics", ".training-topics.lock"}


def test_a_damaged_classifier_is_reported(topics: Path) -> None:
    (topics / card.WEIGHTS_FILE).write_bytes(b"no")
    assert "is damaged" in fail("classify", "a", "--with", "topics").message
    (topics / card.CARD_FILE).write_text('{"name": 3}')
    error = fail("classify", "a", "--with", "topics")
    assert error.hint == "Remove it: chatlm emotion remove topics"
    succeed("remove", "topics", "--yes")


def test_names_are_completed(topics: Path) -> None:
    for command in (emotion.commands["classify"], emotion.commands["show"]):
        (option,) = (each for each in command.params if each.name == "name")
        found = option.shell_complete(click.Context(command), "to")
        assert [item.value for item in found] == ["topics"]


# --- the panel of models -------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedEngine]:
    """Let side chats be answered by a script."""

    def say(*replies: str) -> ScriptedEngine:
        engine = ScriptedEngine(*replies)

        @contextmanager
        def chats(config: Config, report: Any) -> Iterator[InMemorySideChats]:
            with InMemorySideChats(config, PluginHost(), lambda *given: engine, report) as own:
                yield own

        monkeypatch.setattr(chatlm, "side_chats", chats)
        return engine

    return say


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_majority_labels_and_a_fourth_decides(
    home: Path, tmp_path: Path, scripted: Callable[..., ScriptedEngine]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one\ntwo\n")
    # three raters read both texts each, then the fourth the one without a majority
    scripted(" joy", " fear", " joy.", " anger", " anger", " I cannot say", " fear.")
    out = tmp_path / "out.jsonl"
    words = ("label", str(texts), "--out", str(out), "--labels", "joy,anger,fear")
    result = table(*words, "--tie", "judge")
    assert rows_of(out) == [
        {"text": "one", "label": "joy", "votes": ["joy", "joy", "anger"], "decided": False},
        {"text": "two", "label": "fear", "votes": ["fear", "anger", None], "decided": True},
    ]
    assert (result["texts"], result["decided"], result["open"]) == (2, 1, 0)
    assert result["majority"] == 0.5


def test_a_panel_goes_on_where_it_was_stopped(
    home: Path, tmp_path: Path, scripted: Callable[..., ScriptedEngine]
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "one"}\n{"text": "two"}\n')
    out = tmp_path / "out.jsonl"
    out.write_text(
        '{"text": "one", "label": "joy", "votes": ["joy", "joy", "joy"], "decided": false}\n'
        '{"text": "two", "la'  # cut off by a crash
    )
    engine = scripted(" joy", " fear", " fear")
    succeed("label", str(texts), "--out", str(out), "--labels", "joy,fear")
    assert len(engine.requests) == 3
    last = rows_of(out)[-1]
    assert (last["text"], last["label"]) == ("two", "fear")
    again = succeed("label", str(texts), "--out", str(out), "--labels", "joy,fear").stdout
    assert again.startswith("2 texts: all raters agree on 50%")
    assert len(engine.requests) == 3, "nobody was asked again"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--labels", "joy"), "At least two labels"),
        (("--labels", "a,b", "--ask", "which?"), "needs {text} and {labels}"),
        (("--labels", "a,b", "--rater", "x", "--ask", "{text}{labels}"), "at least 3 raters"),
        (("--labels", "a,b", "--rater", "x", "--rater", "y", "--ask", "{text}{labels}1", "--ask",
          "{text}{labels}2"), "not both"),
        (("--labels", "a,b", "--tie", "me"), "needs a terminal"),
    ],
)  # fmt: skip
def test_wrong_panels(home: Path, tmp_path: Path, words: Sequence[str], message: str) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n")
    error = fail("label", str(texts), "--out", str(tmp_path / "o"), *words)
    assert isinstance(error, UsageError)
    assert message in error.message
