"""Commands and stored facts behind the arena's statistics: audits, judges, rankings, topics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from chatlm import Setup, StopReason, UsageError
from chatlm_arena.commands.ratings import arena
from chatlm_arena.contestants import Contestant
from chatlm_arena.ranking import describe_places, parse_order
from chatlm_arena.records import HUMAN, MatchReply, VoteFacts
from chatlm_arena.rubrics import RUBRICS, find_rubric
from chatlm_arena.statistics.judges import (
    JudgeRow,
    calibrate_judges,
    judge_weights,
    powered_board,
)
from chatlm_arena.statistics.topics import cluster_messages, name_clusters, topics_by_tag
from chatlm_arena.statistics.voter_checks import find_bots, find_repeats
from chatlm_arena.store import store as store_module
from chatlm_arena.store.facts import JudgedMatch
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.votes import Verdict, Votes

L, R, T = Verdict.LEFT, Verdict.RIGHT, Verdict.TIE


@pytest.fixture
def store(home: Path) -> Iterator[ArenaStore]:
    with store_module.open_arena_store() as opened:
        yield opened


def entrants(store: ArenaStore, *names: str) -> list[Contestant]:
    return [store.add_contestant(name, Setup(system=name)) for name in names]


def answer(
    contestant: Contestant, text: str, prompt: str = "Hi?", seconds: float = 1.0
) -> MatchReply:
    made_by = {
        "first_token_seconds": seconds / 2,
        "decode_seconds": seconds / 2,
        "completion_tokens": 10,
    }
    return MatchReply(contestant.id, 0, prompt, text, StopReason.END, made_by)


def play(
    store: ArenaStore,
    left: Contestant,
    right: Contestant,
    verdicts: dict[str, Verdict],
    prompt: str = "Hi?",
    texts: tuple[str, str] = ("one", "two"),
    seconds: tuple[float, float] = (1.0, 1.0),
) -> None:
    """A match with votes by judge."""
    match = store.add_match(left, right)
    store.add_reply(match, "left", answer(left, texts[0], prompt, seconds[0]))
    store.add_reply(match, "right", answer(right, texts[1], prompt, seconds[1]))
    for judge, verdict in verdicts.items():
        store.add_vote(match, verdict, judge)


def run(*arguments: str) -> Any:
    """The JSON that a command of `chatlm arena` prints."""
    done = CliRunner().invoke(arena, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(arena, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


# Rankings


@pytest.mark.parametrize(
    ("text", "places"),
    [("2 > 1 > 3", [2, 1, 3]), ("213", [2, 1, 3]), ("3=1>2", [1, 3, 1]), ("1=2=3", [1, 1, 1]),
     ("2, 3 = 1", [2, 1, 2])],
)  # fmt: skip
def test_an_order_is_read(text: str, places: list[int]) -> None:
    assert parse_order(text, 3) == places


@pytest.mark.parametrize("text", ["", "1>2", "1>1>2", "1>2>4", "a>b", "1>>2>3", "123>", "=123"])
def test_an_order_names_each_answer_once(text: str) -> None:
    with pytest.raises(UsageError):
        parse_order(text, 3)


def test_an_order_in_words() -> None:
    assert describe_places([2, 1, 2], ["a", "b", "c"]) == "b > a = c"


def test_a_ranking_is_stored_as_its_pairs(store: ArenaStore) -> None:
    contestants = entrants(store, "a", "b", "c")
    answers = [(each, [answer(each, f"I am {each.name}.")]) for each in contestants]
    assert store.add_ranking(answers, [2, 1, 2]) == 3
    found = {(b.left, b.right): b.verdict for b in store.ballots()}
    assert found == {("a", "b"): "right", ("a", "c"): "tie", ("b", "c"): "left"}
    facts = store.vote_facts()
    assert len({fact.ranking_id for fact in facts}) == 1
    assert {fact.left_text for fact in facts} == {"I am a.", "I am b."}
    store.undo_vote()
    assert store.ballots() == []
    assert store.add_ranking(answers, [1, 2, 3]) == 3


def test_a_ranking_of_a_tournament_keeps_the_sides_of_its_matches(store: ArenaStore) -> None:
    one, other = entrants(store, "a", "b")
    run_id = store.open_run("run", {})
    match = store.add_match(other, one, run_id=run_id, item=0)
    replies = [store.add_run_reply(run_id, 0, answer(each, each.name)) for each in (one, other)]
    store.add_ranking([(one, replies[:1]), (other, replies[1:])], [1, 2], run_id=run_id, item=0)
    (ballot,) = store.ballots()
    assert (ballot.match_id, ballot.left, ballot.verdict) == (match.id, "b", "right")
    with pytest.raises(UsageError, match="already have a vote"):
        store.add_ranking([(one, replies[:1]), (other, replies[1:])], [2, 1], run_id=run_id, item=0)


# Checks of voters


def facts_of(votes: Votes, judge: str = "x", prompts: list[str] | None = None,
             seconds: float = 60.0, characters: int = 200) -> list[VoteFacts]:  # fmt: skip
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        VoteFacts(
            int(left), int(right), judge, start + timedelta(seconds=seconds * at), False, at, None,
            prompts[at] if prompts else f"prompt {at}", "a" * (characters // 2),
            "b" * (characters // 2),
        )
        for at, (left, right) in enumerate(zip(votes.left, votes.right, strict=True))
    ]  # fmt: skip


def fair_votes(count: int, seed: int = 0, lean: float = 1.5) -> Votes:
    """Votes between three contestants, each clearly better than the next."""
    draw = np.random.default_rng(seed)
    left = draw.integers(0, 3, count)
    right = (left + draw.integers(1, 3, count)) % 3
    chance = 1 / (1 + np.exp(lean * (left - right)))
    return Votes(("a", "b", "c"), left, right, (draw.random(count) < chance).astype(float))


def joined(one: Votes, other: Votes) -> Votes:
    return Votes(
        one.names,
        np.concatenate([one.left, other.left]),
        np.concatenate([one.right, other.right]),
        np.concatenate([one.score, other.score]),
    )


def test_honest_voters_are_not_suspected() -> None:
    for seed in range(10):
        one, other = fair_votes(100, seed), fair_votes(60, 100 + seed)
        facts = [*facts_of(one, "first"), *facts_of(other, HUMAN)]
        assert find_bots(joined(one, other), facts) == []


def test_bots_are_found() -> None:
    honest = fair_votes(300)
    left = Votes(honest.names, honest.left[:60], honest.right[:60], np.ones(60))
    ties = Votes(honest.names, honest.left[:60], honest.right[:60], np.full(60, 0.5))
    dice = fair_votes(200, seed=9, lean=0.0)
    votes = joined(joined(joined(honest, left), ties), dice)
    facts = [
        *facts_of(honest, "honest"), *facts_of(left, "lefty"), *facts_of(ties, "lazy"),
        *facts_of(dice, "dice"),
    ]  # fmt: skip
    found = {(warning.subject, warning.kind) for warning in find_bots(votes, facts)}
    assert {("lefty", "one_side"), ("lazy", "same_verdict"), ("dice", "random")} <= found
    assert "honest" not in {subject for subject, _ in found}


def test_votes_faster_than_reading_are_noticed() -> None:
    votes = fair_votes(50)
    (warning,) = find_bots(votes, facts_of(votes, HUMAN, seconds=2, characters=4000))
    assert warning.kind == "too_fast"
    assert find_bots(votes, facts_of(votes, HUMAN, seconds=60, characters=4000)) == []
    assert find_bots(votes, facts_of(votes, "a model", seconds=2, characters=4000)) == []


def test_repeated_prompts_are_noticed() -> None:
    votes = Votes(("a", "b"), np.full(12, 0), np.full(12, 1), np.ones(12))
    same = facts_of(votes, prompts=["Hi!", " hi "] * 5 + ["Bye", "Why"])
    (warning,) = find_repeats(same)
    assert warning.votes == 9
    assert "“Hi!” 10 times" in warning.text
    assert find_repeats(facts_of(votes)) == []


# Rubrics


def test_rubrics(tmp_path: Path) -> None:
    assert find_rubric("helpful").judge_name("m") == "m"
    assert find_rubric("code", reasoning=True).judge_name("m") == "m (code, reasoning)"
    path = tmp_path / "short.txt"
    path.write_text("Prefer the\nshorter answer.\n")
    own = find_rubric(str(path))
    assert "Prefer the shorter answer." in own.system
    path.write_text("Prefer the longer answer.")
    assert find_rubric(str(path)).judge_name("m") != own.judge_name("m")
    assert {row["name"] for row in run("rubrics")} == set(RUBRICS)


def test_a_rubric_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no rubric nice"):
        find_rubric("nice")
    for content, problem in ((b" \n", "is empty"), (b"\xff", "not UTF-8"), (b"x" * 9000, "more")):
        path = tmp_path / "rubric.txt"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=problem):
            find_rubric(str(path))


# Judges


def test_calibration_and_weights() -> None:
    matches = [
        JudgedMatch(
            at, "a", "b",
            {HUMAN: float(at % 2), "good": float(at % 2 if at % 10 else 1 - at % 2), "bad": 1.0},
        )
        for at in range(60)
    ]  # fmt: skip
    found = calibrate_judges(matches, {HUMAN: 60, "good": 60, "bad": 60}, {})
    good, bad = found.rows
    assert (good.name, good.kappa.matches, good.decided, good.agreed) == ("good", 60, 60, 54)
    assert good.kappa.value == pytest.approx(0.8, abs=0.01)
    assert bad.kappa.value == pytest.approx(0, abs=0.01)
    weights = judge_weights(found, ["good", "bad"])
    assert weights["good"] == pytest.approx(np.log(55 / 7))
    assert weights["bad"] == pytest.approx(0)
    with pytest.raises(UsageError, match="20 are needed"):
        judge_weights(found, ["good", "new"])
    with pytest.raises(UsageError, match="None of these judges"):
        judge_weights(found, ["bad"])


def test_what_is_unknown_about_a_judge_is_null(store: ArenaStore) -> None:
    one, other = entrants(store, "a", "b")
    play(store, one, other, {"model": L})
    (row,) = run("judges")["judges"]
    assert (row["name"], row["shared"], row["kappa"], row["weight"]) == ("model", 0, None, None)
    assert isinstance(calibrate_judges([], {"x": 1}, {}).rows[0], JudgeRow)


def judged_matches(count: int, by_human: int) -> list[JudgedMatch]:
    """Matches judged by a model that likes the left side, some of them by the user, too."""
    draw = np.random.default_rng(0)
    found = []
    for at in range(count):
        left, right = draw.permutation(3)[:2].tolist()
        user = float(draw.random() < 1 / (1 + np.exp(0.7 * (left - right))))
        model = user if draw.random() < 0.85 else float(draw.random() < 0.9)
        scores = {"model": model} | ({HUMAN: user} if at < by_human else {})
        found.append(JudgedMatch(at, "abc"[left], "abc"[right], scores))
    return found


def test_corrected_ratings_are_narrower() -> None:
    rows, fit = powered_board(judged_matches(2000, 300), "model")
    assert (fit.shared, fit.judge_only) == (300, 1700)
    assert [row.name for row in rows] == ["a", "b", "c"]
    for row in rows:
        assert row.high - row.low < row.human_high - row.human_low
    with pytest.raises(UsageError, match="has judged no match that you have not"):
        powered_board(judged_matches(50, 50), "model")


def test_corrected_ratings_on_the_command_line(store: ArenaStore) -> None:
    contestants = dict(zip("abc", entrants(store, "a", "b", "c"), strict=True))
    verdicts = {1.0: L, 0.0: R}
    for match in judged_matches(90, 40):
        by_judge = {judge: verdicts[score] for judge, score in match.scores.items()}
        play(store, contestants[match.left], contestants[match.right], by_judge)
    found = run("leaderboard", "--corrected", "model")
    assert (found["shared"], found["judge_only"]) == (40, 50)
    assert "corrected by 40 that you both have" in shown("leaderboard", "--corrected", "model")
    with pytest.raises(UsageError, match="30 are"):
        CliRunner().invoke(arena, ["leaderboard", "--corrected", "x"], catch_exceptions=False)
    (row,) = run("judges")["judges"]
    assert (row["shared"], row["votes"]) == (40, 90)
    assert row["kappa_low"] < row["kappa"] < row["kappa_high"] <= 1


# Boards, audits, speed, topics


def many_matches(store: ArenaStore) -> None:
    """Two contestants, of which the second writes lists and long replies, and one is faster."""
    plain, rich = entrants(store, "plain", "rich")
    for at in range(60):
        texts = ("Short.", "- a\n- list of words " + "x" * (at % 7 * 9))
        if at % 5 == 0:
            texts = ("- a\n- plain list, which is rather long", "Rich.")
        if at % 5 == 1:
            texts = ("Plain text that is longer than a list with one item.", "- a")
        verdict = (L, R, R, T)[at % 4]
        prompt = ("Write code in Python", "Write a poem about love")[at % 2] + f" {at % 20}"
        pair, seconds = (plain, rich), (0.5, 2.0)
        if at % 3 == 0:
            pair, texts, seconds = (rich, plain), (texts[1], texts[0]), (2.0, 0.5)
            verdict = verdict.mirrored
        play(store, *pair, {HUMAN: verdict}, prompt, texts, seconds)


def test_boards_with_ties_modelled_and_style_controlled(store: ArenaStore) -> None:
    many_matches(store)
    plain = run("leaderboard")
    assert [row["name"] for row in plain] == ["rich", "plain"]
    found = run("leaderboard", "--ties", "davidson")
    assert found["tie_share"] == pytest.approx(0.25)
    assert 0.2 < found["even_tie_chance"] < 0.35
    assert [row["name"] for row in found["rows"]] == ["rich", "plain"]
    found = run("leaderboard", "--style", "--ties", "davidson")
    assert {effect["name"] for effect in found["effects"]} == {"length", "lists", "position"}
    assert found["same_style"] == ["headings", "bold"]
    assert found["left_out"] == 0
    assert "What style is worth" in shown("leaderboard", "--style")


def test_an_audit(store: ArenaStore) -> None:
    assert "No votes yet" in shown("audit")
    many_matches(store)
    found = run("audit")
    assert found["votes"] == 60
    assert found["drop"]["first"] == "rich"
    assert found["drop"]["exact"] is True
    assert found["drop"]["count"] == sum(row["count"] for row in found["drop"]["votes"])
    assert found["stopping"]["settled"] is False
    assert next(warning["kind"] for warning in found["warnings"]) == "repeats"
    text = shown("audit")
    assert "are enough to change first place; fewer are not." in text
    assert "Stopping: go on. rich leads" in text


def test_speed_and_its_picture(store: ArenaStore, tmp_path: Path) -> None:
    many_matches(store)
    rows = run("speed")
    assert [(row["name"], row["seconds"], row["efficient"]) for row in rows] == [
        ("plain", 0.5, True), ("rich", 2.0, True),
    ]  # fmt: skip
    for name in ("speed.png", "speed.svg"):
        assert f"Wrote {tmp_path / name}" in shown("speed", "--to", str(tmp_path / name)).replace(
            "\n", ""
        )
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(UsageError, match=r"neither a \.png nor an \.svg"):
        CliRunner().invoke(arena, ["speed", "--to", "x.txt"], catch_exceptions=False)


def test_aspects(store: ArenaStore) -> None:
    one, other = entrants(store, "a", "b")
    for at in range(12):
        play(store, one, other, {HUMAN: L if at % 3 else R})
        match = store.match(at + 1)
        for judge, shift in (("x", 0), ("y", at % 2)):
            for aspect in ("coherence", "informativeness"):
                left, right = (1, -1) if at % 3 else (-1, 1)
                store.add_rating(match.left_replies[0], judge, aspect, left + shift, "")
                store.add_rating(match.right_replies[0], judge, aspect, right - shift, "")
    found = run("aspects")
    means = {(row["contestant"], row["aspect"]): row for row in found["means"]}
    assert means["a", "coherence"]["mean"] == pytest.approx(0.25 + 1 / 3)
    assert means["a", "coherence"]["answers"] == 12
    by_pair = {(row["one"], row["other"]): row["value"] for row in found["correlations"]}
    assert by_pair["coherence", "informativeness"] == pytest.approx(1)
    assert by_pair["coherence", "votes"] > 0.8
    assert 0.5 < found["reliability"]["coherence"]["value"] < 1
    assert "reliability α" in shown("aspects")


def test_topics_of_tags(store: ArenaStore) -> None:
    assert topics_by_tag({1: ("code",), 2: ("code", "hard")}) == {"code": [1, 2], "hard": [2]}
    with pytest.raises(UsageError, match="No match has tags"):
        topics_by_tag({})


def test_clusters_and_their_names() -> None:
    texts = [f"{word} number {at}" for word in ("python", "poem", "history") for at in range(8)]
    draw = np.random.default_rng(0)
    centres = np.repeat(np.eye(3), 8, axis=0)
    vectors = centres + 0.05 * draw.normal(size=(24, 3))
    clusters = cluster_messages(texts, vectors)
    assert len(set(clusters.tolist())) == 3
    names = name_clusters(texts, clusters)
    assert [names[number].split(", ")[0] for number in clusters[[0, 8, 16]]] == [
        "python", "poem", "history",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="too few for topics"):
        cluster_messages(texts[:5], vectors[:5])
