"""The arena's database: votes are only added, contestants change, files are imported whole."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chatlm import ChatlmError, Setup, UsageError, load_config
from chatlm_arena import vote_files
from chatlm_arena.records import ImportedVote
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.votes import Verdict
from tests.plugins.arena import COLD, HOT, played, reply_of, two

L, R, T = Verdict.LEFT, Verdict.RIGHT, Verdict.TIE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ArenaStore]:
    with ArenaStore(tmp_path / "arena.db") as opened:
        yield opened


def test_contestants_come_back_as_they_were(store: ArenaStore, tmp_path: Path) -> None:
    hot, cold = two(store)
    with ArenaStore(tmp_path / "arena.db") as again:
        assert again.contestants() == [hot, cold]
        assert again.contestant("hot").setup == HOT


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 61, "\x1b[31m"])
def test_a_name_is_one_line(store: ArenaStore, name: str) -> None:
    with pytest.raises(UsageError, match="Invalid contestant name"):
        store.add_contestant(name, HOT)


def test_names_are_taken_once(store: ArenaStore) -> None:
    two(store)
    with pytest.raises(UsageError, match="already a contestant hot"):
        store.add_contestant("hot", COLD)
    with pytest.raises(UsageError, match="already a contestant cold"):
        store.rename_contestant("hot", "cold")
    with pytest.raises(UsageError, match="no contestant 'warm'"):
        store.contestant("warm")


def test_a_set_up_is_taken_once(store: ArenaStore) -> None:
    two(store)
    with pytest.raises(
        UsageError, match=r"hot already has this set-up: default model, temperature 1\.3"
    ):
        store.add_contestant("warm", HOT)
    named = dataclasses.replace(HOT, model=load_config().model)
    with pytest.raises(UsageError, match="hot already has this set-up"):
        store.add_contestant("warm", named)
    with pytest.raises(UsageError, match="hot already has this set-up"):
        store.edit_contestant("cold", HOT)
    store.edit_contestant("hot", Setup())
    store.add_contestant("warm", HOT)


def test_another_set_up_begins_without_votes(store: ArenaStore) -> None:
    hot, cold = two(store)
    played(store, hot, cold, L)
    assert store.edit_contestant("hot", HOT) == 0
    assert store.edit_contestant("hot", Setup(adapter="pirate")) == 1
    assert len(store.votes()) == 0
    assert [c.name for c in store.contestants()] == ["cold", "hot"]
    assert store.match(1).left.setup == HOT  # played matches are unchanged


def test_another_set_up_does_not_take_over_replies(store: ArenaStore) -> None:
    hot, cold = two(store)
    run = store.open_run("run", {})
    said = store.add_run_reply(run, 0, reply_of(hot, "Hot."))
    store.edit_contestant("hot", Setup(adapter="pirate"))
    assert store.contestant("hot").id != said.contestant_id
    store.edit_contestant("cold", Setup(adapter="instruct"))
    assert store.contestant("cold").id == cold.id  # it has no replies yet


def test_a_new_name_keeps_the_votes(store: ArenaStore) -> None:
    hot, cold = two(store)
    played(store, hot, cold, L)
    store.rename_contestant("hot", "warm")
    assert store.ballots()[0].left == "warm"


def test_removed_with_its_votes(store: ArenaStore) -> None:
    hot, cold = two(store)
    played(store, hot, cold, L)
    assert store.remove_contestant("hot") == 1
    assert store.votes().names == ("cold",)
    store.add_contestant("hot", HOT)
    assert len(store.votes()) == 0


def test_a_match_with_its_replies(store: ArenaStore) -> None:
    hot, cold = two(store)
    match = played(store, hot, cold)
    store.add_reply(match, "left", reply_of(hot, "And more.", turn=1, prompt="More?"))
    again = store.match(match.id)
    assert [reply.text for reply in again.left_replies] == [
        "I am hot, at your service.",
        "And more.",
    ]
    assert [reply.prompt for reply in again.left_replies] == ["Hi?", "More?"]
    assert again.right_replies[0].tokens == 3
    store.add_reply(match, "left", reply_of(hot, "Once more.", turn=1, prompt="More?"))
    assert store.match(match.id).left_replies[1].text == "Once more."
    with pytest.raises(UsageError, match="no match 99"):
        store.match(99)


def test_votes_and_undo(store: ArenaStore, tmp_path: Path) -> None:
    hot, cold = two(store)
    first = played(store, hot, cold, L)
    played(store, cold, hot, T)
    assert store.votes().score.tolist() == [1.0, 0.5]
    assert [(b.left, b.right, b.verdict) for b in store.ballots()] == [
        ("hot", "cold", "left"),
        ("cold", "hot", "tie"),
    ]
    with pytest.raises(UsageError, match="already has a vote"):
        store.add_vote(first, R)
    store.add_vote(first, R, judge="model")
    assert len(store.votes("model")) == 1
    assert store.undo_vote().verdict == "tie"
    assert store.undo_vote().verdict == "left"
    with pytest.raises(UsageError, match="no vote to undo"):
        store.undo_vote()
    store.add_vote(first, R)
    assert store.votes("human").score.tolist() == [0.0]
    with sqlite3.connect(tmp_path / "arena.db") as db:
        assert db.execute("SELECT count(*) FROM vote").fetchone() == (4,)


@pytest.mark.parametrize("change", ["DELETE FROM vote", "UPDATE vote SET verdict = 'right'"])
def test_votes_cannot_be_changed(store: ArenaStore, tmp_path: Path, change: str) -> None:
    played(store, *two(store), L)
    with (
        sqlite3.connect(tmp_path / "arena.db") as db,
        pytest.raises(sqlite3.IntegrityError, match="never"),
    ):
        db.execute(change)


def test_lengths(store: ArenaStore) -> None:
    hot, cold = two(store)
    played(store, hot, cold, L)
    store.import_votes([ImportedVote("hot", "cold", R, "human")], "x", "0")
    score, left, right = store.reply_lengths()
    assert (score.tolist(), left.tolist(), right.tolist()) == ([1.0], [26.0], [5.0])


def test_a_file_is_imported_whole_and_once(store: ArenaStore, tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text("left,right,winner\na,b,left\nb,c,tie\n\n")
    digest = vote_files.file_sha256(path)
    assert store.import_votes(vote_files.read_votes(path), path.name, digest) == 2
    assert store.votes().names == ("a", "b", "c")
    with pytest.raises(UsageError, match="already imported"):
        store.import_votes(vote_files.read_votes(path), path.name, digest)
    path.write_text("left,right,winner\na,d,left\na,b,who\n")
    with pytest.raises(UsageError, match=r"line 3: it has an unknown winner: 'who'"):
        store.import_votes(vote_files.read_votes(path), path.name, vote_files.file_sha256(path))
    assert store.votes().names == ("a", "b", "c")
    assert store.add_contestant("a", HOT).setup == HOT
    assert len(store.votes()) == 2


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("v.csv", "left,right\na,b\n", "no column winner"),
        ("v.csv", "", "no column left, right, winner"),
        ("v.csv", "left,right,winner\na,b\n", "line 2: it has 2 values"),
        ("v.csv", "left,right,winner\na,a,left\n", "it has a on both sides"),
        ("v.csv", "left,right,winner\n,a,left\n", "line 2: it has no name in left"),
        (
            "v.csv",
            "left,right,winner\n\x1b[31m,a,left\n",
            "a name in left that is not a single line",
        ),
        ("v.csv", 'left,right,winner\n"a,b,left\n', "line 2: it is not CSV"),
        ("v.jsonl", "{", "line 1: not JSON"),
        ("v.jsonl", "[]", "line 1: it is not a JSON object"),
        ("v.jsonl", '{"model_a": 1, "model_b": "b", "winner": "tie"}', "has no name in model_a"),
        (
            "v.jsonl",
            '{"model_a": "a", "model_b": "b", "winner": null}',
            "has an unknown winner: None",
        ),
    ],
)
def test_a_wrong_file_is_reported(tmp_path: Path, name: str, content: str, what: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError, match=what):
        list(vote_files.read_votes(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        vote_files.file_sha256(tmp_path / "nowhere.csv")
    (tmp_path / "bad.csv").write_bytes(b"left,right,winner\n\xff,b,left\n")
    with pytest.raises(UsageError, match="is not UTF-8"):
        list(vote_files.read_votes(tmp_path / "bad.csv"))


def test_lmarena_lines(tmp_path: Path) -> None:
    path = tmp_path / "battles.jsonl"
    path.write_text(
        '{"model_a": "x", "model_b": "y", "winner": "model_b", "judge": "judge_7", "turn": 1}\n'
        '{"model_a": "x", "model_b": "y", "winner": "tie (bothbad)"}\n'
    )
    assert list(vote_files.read_votes(path)) == [
        ImportedVote("x", "y", Verdict.RIGHT, "judge_7"),
        ImportedVote("x", "y", Verdict.BOTH_BAD, vote_files.IMPORTED_JUDGE),
    ]


def chat(*said: str) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)
    ]


def test_chats_of_lmarena_are_kept_with_their_votes(store: ArenaStore, tmp_path: Path) -> None:
    path = tmp_path / "battles.jsonl"
    one = {"model_a": "x", "model_b": "y", "winner": "model_a", "judge": "human"}
    rows = [
        one | {"conversation_a": chat("Hi", "Yes"), "conversation_b": chat("Hi", "No")},
        one | {"conversation_a": chat("Hi", "Yes"), "conversation_b": chat("Ho", "No")},
        one | {"conversation_a": chat("Hi"), "conversation_b": "text"},
        one | {"conversation_a": [{"role": "user", "content": 1}, 3], "conversation_b": []},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert store.import_votes(vote_files.read_votes(path), path.name, "0") == 4
    ballots = store.ballots()
    assert [ballot.match_id for ballot in ballots] == [1, None, None, None]
    judged = [(ballots[0], store.match(1))]
    user = {"role": "user", "content": "Hi"}
    better, worse = ({"role": "assistant", "content": text} for text in ("Yes", "No"))
    assert list(vote_files.dpo_examples(judged, store.image)) == [
        {"prompt": [user], "chosen": [better], "rejected": [worse]}
    ]
    assert store.reply_lengths()[1].tolist() == [3.0]
    with pytest.raises(UsageError, match="no vote to undo"):
        store.undo_vote()


def test_examples_to_train_from(store: ArenaStore) -> None:
    hot, cold = two(store)
    match = played(store, hot, cold)
    store.add_reply(match, "left", reply_of(hot, "Sure.", turn=1, prompt="Sure?"))
    store.add_reply(match, "right", reply_of(cold, "No.", turn=1, prompt="Sure?"))
    store.add_vote(match, R)
    played(store, hot, cold, T)
    played(store, hot, cold, Verdict.BOTH_BAD)
    judged = [(b, store.match(b.match_id or 0)) for b in store.ballots()]
    user, more = {"role": "user", "content": "Hi?"}, {"role": "user", "content": "Sure?"}
    better = [{"role": "assistant", "content": "cold."}, more]
    better += [{"role": "assistant", "content": "No."}]
    assert list(vote_files.sft_examples(judged, store.image)) == [{"messages": [user, *better]}]
    (row,) = vote_files.dpo_examples(judged, store.image)
    assert (row["prompt"], row["chosen"]) == ([user], better)
    assert row["rejected"][0] == {"role": "assistant", "content": "I am hot, at your service."}
    ballot, first = judged[0]
    same = tuple(replace(reply, text=f" {reply.text}\n") for reply in first.left_replies)
    alike = replace(first, right_replies=same)
    assert list(vote_files.dpo_examples([(ballot, alike)], store.image)) == []


def test_a_file_that_is_no_arena_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "arena.db"
    path.write_text("no database" * 100)
    with pytest.raises(ChatlmError, match="not a database of chatlm"):
        ArenaStore(path)
    assert path.read_text() == "no database" * 100
