"""`chatlm lab …` for users and scripts, and models trained by it as engines."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result

from chatlm import (
    ChatlmError,
    Delta,
    Finished,
    LocalEngine,
    Message,
    Request,
    Sampling,
    StopReason,
    UsageError,
)
from chatlm_lab import plugin
from chatlm_lab.commands import lab
from chatlm_lab.corpus import read_corpus
from chatlm_lab.models import LAB_MODELS
from chatlm_lab.ngram_architecture import OpenedNgrams
from chatlm_lab.opening import open_engine, open_model
from chatlm_lab.smoothing import make_smoothing
from tests.plugins.arena import chatlm
from tests.plugins.lab import story, trained, write_story


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_story(tmp_path)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(lab, list(map(str, words)))


def succeed(*words: str | Path) -> Result:
    done = run(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def table(*words: str | Path) -> Any:
    return json.loads(succeed(*words, "--json").stdout)


def fail(*words: str | Path) -> ChatlmError:
    done = run(*words)
    assert isinstance(done.exception, ChatlmError), (done.output, done.exception)
    return done.exception


def generate(engine: LocalEngine, **sampling: Any) -> tuple[str, Finished]:
    request = Request(
        (Message("user", "The cat"),), Sampling(**{"max_tokens": 40, "seed": 3, **sampling})
    )
    with closing(engine.stream(request)) as events:
        seen = list(events)
    assert isinstance(seen[-1], Finished)
    return "".join(each.text for each in seen if isinstance(each, Delta)), seen[-1]


def test_trained_listed_shown_evaluated_removed(home: Path, data: Path, tmp_path: Path) -> None:
    card = table("train", "tiny", "--data", data, "--vocabulary", "300", "--order", "4")
    assert card["command"].startswith("chatlm lab train tiny --arch ngram --data story.txt")
    assert str(tmp_path) not in json.dumps(card)
    assert card["held_out"]["perplexity"] < 12
    assert card["held_out"]["mean_sum"] == pytest.approx(1)
    assert card["cost"]["counting_seconds"] >= 0
    assert len(card["size"]["ngrams"]) == 4
    assert card["settings"]["order"] == 4
    succeed("train", "raw", "--data", data, "--tokenizer", "bytes", "--smoothing", "backoff")
    rows = {row["name"]: row for row in table("list")}
    assert rows["tiny"]["perplexity"] == card["held_out"]["perplexity"]
    assert rows["raw"]["vocabulary"] == 257
    assert "4-gram, Kneser–Ney" in succeed("list").stdout
    assert table("show", "tiny")["folder"] == str(home / "lab" / "tiny")
    assert "perplexity" in succeed("show", "tiny").stdout
    new = tmp_path / "new.txt"
    new.write_text(story(40, seed=9))
    scores = {row["name"]: row for row in table("eval", "tiny", "raw", "--data", new)}
    assert scores["tiny"]["mean_sum"] == pytest.approx(1)
    assert scores["raw"]["mean_sum"] > 1.01
    assert "they sum to" in succeed("eval", "raw", "--data", new).stdout
    (plain,) = table("eval", "raw", "--data", new, "--smoothing", "laplace", "--order", "2")
    assert plain["mean_sum"] == pytest.approx(1)
    assert scores["tiny"]["bits_per_byte"] < plain["bits_per_byte"]
    assert "Removed tiny" in succeed("remove", "tiny", "--yes").stdout
    assert [row["name"] for row in table("list")] == ["raw"]
    assert fail("show", "rau").hint == "Did you mean raw?"


def test_words_outside_the_vocabulary_are_counted(home: Path, data: Path) -> None:
    card = table("train", "tiny", "--data", data, "--tokenizer", "words", "--vocabulary", "12")
    assert card["held_out"]["unknown_tokens"] > 0
    assert card["held_out"]["bits_per_byte"] is None
    assert "are unknown" in succeed("eval", "tiny", "--data", data).stdout


def test_data_may_be_a_folder_or_lines_of_json(home: Path, data: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"text": story(3)}) + "\n"] * 20
    (tmp_path / "rows.jsonl").write_text("".join(rows) + "\n")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    kind = ("--tokenizer", "characters", "--held-out", "0.25")
    card = table("train", "tiny", "--data", tmp_path, *kind)
    assert card["data"]["files"] == 2
    assert card["data"]["texts"] == 1 + 15
    assert card["data"]["held_out_texts"] == 1 + 5
    whole = table("train", "all", "--data", data, "--held-out", "0", "--tokenizer", "bytes")
    assert whole["held_out"] == {}
    assert whole["data"]["tokens"] == data.stat().st_size + 2


def test_lines_of_json_end_at_line_feeds_and_may_have_halves_of_a_character(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.jsonl"
    whole = json.dumps({"text": "One\u2028or two?"}, ensure_ascii=False)
    path.write_text(f'{whole}\n{{"text": "half \\ud83d"}}\r\n', encoding="utf-8", newline="")
    corpus = read_corpus([path], 0.0)
    assert corpus.train == ("One\u2028or two?", "half ?")
    assert corpus.train_bytes == len("One\u2028or two?".encode()) + 6


def test_data_that_cannot_be_used_is_refused(home: Path, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "latin1.txt"
    broken.write_bytes("Ärger".encode("latin-1"))
    empty = tmp_path / "empty"
    empty.mkdir()
    blank = tmp_path / "blank.txt"
    blank.write_text(" \n")
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "yes"}\n{"txt": "no"}\n')
    one = tmp_path / "one.txt"
    one.write_text("word")
    refused = {
        "no file": tmp_path / "missing.txt",
        "byte 0 is not": broken,
        "has no text.": empty,
        "The data has no text": blank,
        "line 2": lines,
        "too short": one,
    }
    for message, path in refused.items():
        error = fail("train", "tiny", "--data", path)
        assert isinstance(error, UsageError)
        assert message in error.message
    assert "--order must be 1 to 8" in fail("train", "t", "--data", data, "--order", "9").message
    assert "0 to 0.5" in fail("train", "t", "--data", data, "--held-out", "0.9").message
    assert "cannot be called" in fail("train", "A b", "--data", data).message
    assert not (home / "lab").exists()
    succeed("train", "tiny", "--data", data)
    assert "already" in fail("train", "tiny", "--data", data).message


def test_ctrl_c_stops_and_nothing_is_saved(
    home: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int, note: str) -> None:
        if note == "counting":
            os.kill(os.getpid(), signal.SIGINT)

    from chatlm.plugin_kit import progress

    monkeypatch.setattr(
        progress._LineProgress, "update", lambda self, done, total, note: interrupt(done, 0, note)
    )
    error = fail("train", "tiny", "--data", data)
    assert (error.message, error.exit_code) == ("Stopped.", 130)
    assert "Nothing was saved" in (error.hint or "")
    assert LAB_MODELS.all() == []


def test_a_text_too_large_for_the_memory_is_refused(
    home: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    assert "memory" in fail("train", "tiny", "--data", data).message
    assert LAB_MODELS.all() == []


def test_a_model_is_sampled_by_seed_and_stops(home: Path, tmp_path: Path) -> None:
    trained(tmp_path)
    engine = open_engine("tiny")
    text, end = generate(engine)
    assert end.usage.completion_tokens == len(text) == 40
    assert end.stop_reason is StopReason.LENGTH
    assert generate(engine)[0] == text
    assert generate(engine, seed=4)[0] != text
    assert generate(open_engine("tiny"))[0] == text
    stopped, end = generate(engine, stop=(text[10:14],))
    assert (stopped, end.stop_reason) == (text[: text.index(text[10:14])], StopReason.STOP_STRING)
    assert engine.info.model == "lab:tiny"
    assert engine.info.prompt_format == "raw"


def test_the_engine_reports_the_probabilities_of_the_counts(home: Path, tmp_path: Path) -> None:
    trained(tmp_path, order=3)
    opened = open_model("tiny")
    assert isinstance(opened, OpenedNgrams)
    smoothing = make_smoothing("kneser-ney", opened.counts)
    engine = open_engine("tiny")
    request = Request(
        (Message("user", "The cat"),), Sampling(temperature=1.0, seed=1, max_tokens=12), logprobs=0
    )
    with closing(engine.stream(request)) as events:
        deltas = [each for each in events if isinstance(each, Delta)]
    text = "The cat" + "".join(each.text for each in deltas)
    ids = np.array(opened.tokenizer.encode(text).ids, np.uint32)
    never = opened.tokenizer.token_to_id("<unk>")
    reported = [token.logprob for each in deltas for token in each.logprobs]
    assert len(reported) == 12
    for place, logprob in enumerate(reported, len(ids) - 12):
        distribution = smoothing.distribution(ids[:place])
        distribution[never] = 0
        expected = distribution[ids[place]] / distribution.sum()
        assert np.exp(logprob) == pytest.approx(expected, rel=1e-4)


def test_a_model_is_listed_asked_and_a_contestant(home: Path, tmp_path: Path) -> None:
    trained(tmp_path)
    (row,) = plugin.list_models()
    assert (row.name, row.description) == (
        "lab:tiny",
        f"5-gram, Kneser–Ney, {open_model('tiny').card.vocabulary} tokens (characters)",
    )
    options = ("-m", "lab:tiny", "--seed", "1", "--max-tokens", "30", "--json")
    asked = chatlm("ask", *options, "The cat")
    assert asked.returncode == 0, asked.stderr
    reply = json.loads(asked.stdout)
    assert (len(reply["text"]), reply["stop_reason"]) == (30, "length")
    added = chatlm("arena", "contestants", "add", "counts", "--model", "lab:tiny")
    assert added.returncode == 0, added.stderr


def test_a_damaged_model_is_refused_and_left_out_of_the_list(home: Path, tmp_path: Path) -> None:
    trained(tmp_path)
    folder = home / "lab" / "tiny"
    counts = folder / "counts.safetensors"
    whole = counts.read_bytes()
    counts.write_bytes(whole[:-8])
    with pytest.raises(ChatlmError, match="damaged"):
        open_engine("tiny")
    counts.write_bytes(whole)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ChatlmError, match=r"tokenizer\.json"):
        open_model("tiny")
    (folder / "card.json").write_text("{}")
    assert plugin.list_models() == []
    assert "card.json" in fail("show", "tiny").message
    with pytest.raises(UsageError, match="no lab model 'other'"):
        open_engine("other")
