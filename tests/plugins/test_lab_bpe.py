"""The step-by-step BPE trainer makes the merges of the library `tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm import UsageError
from chatlm_lab.bpe_steps import BpeSteps, library_merges, visible
from chatlm_lab.commands import lab
from chatlm_lab.tokenizer_kinds import train_tokenizer
from tests.plugins.lab import story, trained, write_story

texts = st.lists(st.text(alphabet="ab c.\nä", min_size=1, max_size=60), min_size=1, max_size=3)


def pairs(steps: BpeSteps) -> list[tuple[str, str]]:
    return [(merge.left, merge.right) for merge in steps.merges]


@settings(max_examples=60)
@given(texts)
def test_merges_are_those_of_the_library(found: list[str]) -> None:
    tokenizer = train_tokenizer("bpe", found, 300)
    expected = library_merges(tokenizer)
    steps = BpeSteps(found)
    list(steps.steps(len(expected)))
    assert pairs(steps) == expected
    assert len(steps.tokens) == tokenizer.get_vocab_size()
    if tokenizer.get_vocab_size() < 300:
        assert steps.step() is None


def test_merges_of_a_longer_text_are_those_of_the_library() -> None:
    text = story(300)
    tokenizer = train_tokenizer("bpe", [text], 400)
    steps = BpeSteps([text])
    list(steps.steps(400 - 257))
    assert pairs(steps) == library_merges(tokenizer)
    assert steps.encode(text) == tokenizer.encode(text, add_special_tokens=False).tokens
    assert steps.merges[-1].tokens == steps.num_tokens == len(steps.encode(text))
    assert [merge.count for merge in steps.merges] == sorted(
        (merge.count for merge in steps.merges), reverse=True
    )


def test_training_ends_when_no_pair_is_left() -> None:
    steps = BpeSteps(["abab ab"])
    assert [merge.token for merge in steps.steps(99)] == ["ab", "Ġab", "abab"]
    assert steps.step() is None
    assert BpeSteps(["a"]).step() is None


def test_tokens_are_shown_readably() -> None:
    assert [visible(token) for token in ("Ġthe", "Ċ", "Ã¤", "Ã")] == ["·the", "↵", "ä", "‹C3›"]
    assert visible("日") == "日"


def run(*words: str | Path) -> str:
    done = CliRunner().invoke(lab, list(map(str, words)))
    if isinstance(done.exception, Exception):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_merges_are_printed(home: Path, tmp_path: Path) -> None:
    data = write_story(tmp_path)
    rows = json.loads(run("tokenizer", "merges", "--data", data, "--merges", "5", "--json"))
    assert len(rows) == 5
    assert rows[0]["vocabulary"] == 258
    printed = run("tokenizer", "merges", "--data", data, "--merges", "5")
    assert printed.count("→") == 5
    with pytest.raises(UsageError, match="1 or more"):
        run("tokenizer", "merges", "--data", data, "--merges", "0")


def test_the_tokens_of_a_text_are_printed(home: Path, tmp_path: Path) -> None:
    trained(tmp_path, tokenizer="bpe", vocabulary=300)
    rows = json.loads(run("tokenizer", "tokens", "The cat\n", "--with", "tiny", "--json"))
    assert "".join(row["text"] for row in rows) == "The·cat↵"
    assert all(0 < row["id"] < 300 for row in rows)
    assert f"{len(rows)} tokens" in run("tokenizer", "tokens", "The cat\n", "--with", "tiny")
    with pytest.raises(UsageError, match="no lab model"):
        run("tokenizer", "tokens", "x", "--with", "other")
